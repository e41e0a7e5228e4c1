"""Transactions that are not mined, mined elsewhere, undone or lied about: nothing is lost and nothing is paid twice."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from tandem.chain.rpc import Chain, connect
from tandem.chain.transactions import (
    GWEI,
    Call,
    Displaced,
    MemoryJournal,
    Mined,
    SignedTransaction,
    TransactionPolicy,
    TransactionSender,
)
from tandem.protocol.errors import ChainError, ChainUnavailable, FeeCapExceeded, InsufficientFunds
from tandem.protocol.signing import SigningKey
from tests.fixtures.anvil import Anvil, run_anvil
from tests.fixtures.clock import ManualClock
from tests.fixtures.endpoint import unreliable

AWAY = "0x" + "99" * 20
POLICY = TransactionPolicy(max_fee_per_gas=100 * GWEI, max_priority_fee_per_gas=GWEI, replace_after_seconds=60)
GAS = 21_000
COUNT = "eth_getTransactionCount"


@pytest.fixture(scope="module")
def fees() -> Iterator[Anvil]:
    """A chain whose base fee these tests move, which no snapshot brings back."""
    with run_anvil("--base-fee", str(GWEI)) as anvil:
        yield anvil


@pytest.fixture
def stuck(fees: Anvil) -> Iterator[Anvil]:
    """The chain, at 1 gwei a unit of gas, with nothing in its pool and nothing being mined."""
    snapshot = fees.rpc("evm_snapshot")
    set_base_fee(fees, GWEI)
    with fees.mining_on_demand():
        yield fees
        fees.rpc("anvil_dropAllTransactions")
    fees.rpc("evm_revert", snapshot)


@pytest.fixture
async def chain(stuck: Anvil) -> AsyncIterator[Chain]:
    async with connect(stuck.url) as chain:
        yield chain


def set_base_fee(anvil: Anvil, fee: int) -> None:
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee))


def sender(
    chain: Chain,
    anvil: Anvil,
    clock: ManualClock,
    journal: MemoryJournal | None = None,
    policy: TransactionPolicy = POLICY,
) -> TransactionSender:
    return TransactionSender(chain, anvil.keys[0], journal or MemoryJournal(), clock, policy)


def fees_of(transactions: Sequence[SignedTransaction]) -> list[tuple[int, int]]:
    fields = [TypedTransaction.from_bytes(HexBytes(transaction.raw)).as_dict() for transaction in transactions]
    return sorted((found["maxFeePerGas"], found["maxPriorityFeePerGas"]) for found in fields)


async def test_a_stuck_transaction_is_replaced_under_its_nonce(stuck: Anvil, chain: Chain, clock: ManualClock) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, stuck, clock, journal)
    first = await transactions.submit(Call(AWAY, value=7), "transfer")
    set_base_fee(stuck, 20 * GWEI)
    assert await transactions.outcomes() == ()
    assert await journal.pending() == [first], "it has not waited long enough"
    clock.advance(60)
    assert await transactions.outcomes() == ()
    versions = await journal.pending()
    assert {version.tx_nonce for version in versions} == {first.tx_nonce}
    assert fees_of(versions) == [(3 * GWEI, GWEI), (2 * 20 * GWEI + 9 * GWEI // 8, 9 * GWEI // 8)]
    stuck.mine()
    (mined,) = await transactions.outcomes()
    assert isinstance(mined, Mined)
    assert (mined.transaction, mined.succeeded) == (versions[1], True)
    assert mined.gas_cost == GAS * (20 * GWEI + 9 * GWEI // 8)
    assert await chain.balance(AWAY) == 7
    await transactions.acknowledge(mined)
    assert await journal.pending() == []


async def test_each_version_offers_an_eighth_more_and_never_more_than_the_cap(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, stuck, clock, journal, replace(POLICY, max_fee_per_gas=5 * GWEI))
    await transactions.submit(Call(AWAY, value=7), "transfer")
    for _ in range(10):
        clock.advance(60)
        await transactions.outcomes()
    offered = fees_of(await journal.pending())
    assert len(offered) == 5
    assert all(
        8 * later >= 9 * earlier
        for before, after in pairwise(offered)
        for earlier, later in zip(before, after, strict=True)
    )
    assert offered[-1][0] <= 5 * GWEI
    stuck.mine()
    (mined,) = await transactions.outcomes()
    assert await chain.balance(AWAY) == 7
    assert fees_of([mined.transaction]) == offered[-1:]


async def test_above_the_cap_nothing_is_sent_and_what_is_in_flight_waits(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, stuck, clock, journal)
    first = await transactions.submit(Call(AWAY, value=7), "transfer")
    set_base_fee(stuck, 200 * GWEI)
    with pytest.raises(FeeCapExceeded, match="at most 100 gwei, it costs 201 gwei"):
        await transactions.submit(Call(AWAY, value=1), "another")
    clock.advance(60)
    assert await transactions.outcomes() == ()
    assert await journal.pending() == [first]


async def test_only_what_holds_up_the_others_is_replaced(stuck: Anvil, chain: Chain, clock: ManualClock) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, stuck, clock, journal)
    sent = [await transactions.submit(Call(AWAY, value=value), "transfer") for value in (7, 8, 9)]
    assert [later.tx_nonce - sent[0].tx_nonce for later in sent] == [0, 1, 2]
    clock.advance(60)
    await transactions.outcomes()
    assert sorted(version.tx_nonce for version in await journal.pending()) == [
        sent[0].tx_nonce,
        *(transaction.tx_nonce for transaction in sent),
    ]
    stuck.mine()
    found = await transactions.outcomes()
    assert [outcome.transaction.tx_nonce for outcome in found] == [transaction.tx_nonce for transaction in sent]
    assert await chain.balance(AWAY) == 24


async def test_a_clock_that_was_set_back_does_not_stop_replacement(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = MemoryJournal()
    await sender(chain, stuck, clock, journal).submit(Call(AWAY, value=7), "transfer")
    await sender(chain, stuck, ManualClock(0.0), journal).outcomes()
    assert len(await journal.pending()) == 2


class Killed(Exception):
    """Stands for the process being killed."""


class KilledJournal(MemoryJournal):
    """The process dies at one of the writes, once they have been counted down."""

    def __init__(self, writes: int, *, written: bool) -> None:
        super().__init__()
        self._left = writes
        self._written = written

    async def record(self, transaction: SignedTransaction) -> None:
        self._left -= 1
        if self._left or self._written:
            await super().record(transaction)
        if not self._left:
            raise Killed


@pytest.mark.parametrize(("written", "versions"), [(False, 1), (True, 2)])
async def test_every_version_survives_the_process(
    stuck: Anvil, chain: Chain, clock: ManualClock, *, written: bool, versions: int
) -> None:
    journal = KilledJournal(2, written=written)
    transactions = sender(chain, stuck, clock, journal)
    await transactions.submit(Call(AWAY, value=7), "transfer")
    clock.advance(60)
    with pytest.raises(Killed):
        await transactions.outcomes()
    assert len(await journal.pending()) == versions
    stuck.mine()  # it is the first version that is mined, the only one that was broadcast
    revived = sender(chain, stuck, clock, journal)
    (mined,) = await revived.outcomes()
    assert fees_of([mined.transaction]) == [(3 * GWEI, GWEI)]
    again = await revived.submit(Call(AWAY, value=1), "another")
    assert again.tx_nonce == mined.transaction.tx_nonce + 1
    await revived.acknowledge(mined)
    assert await journal.pending() == [again]
    assert await chain.balance(AWAY) == 7


async def test_a_replacement_that_was_never_broadcast_is_sent_after_a_crash(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = KilledJournal(2, written=True)
    transactions = sender(chain, stuck, clock, journal)
    await transactions.submit(Call(AWAY, value=7), "transfer")
    clock.advance(60)
    with pytest.raises(Killed):
        await transactions.outcomes()
    revived = sender(chain, stuck, clock, journal)
    assert await revived.outcomes() == ()
    stuck.mine()
    (mined,) = await revived.outcomes()
    assert fees_of([mined.transaction])[0] > (3 * GWEI, GWEI)
    assert await chain.balance(AWAY) == 7


async def test_a_transaction_undone_by_a_reorganisation_is_in_flight_again(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, stuck, clock, journal, replace(POLICY, confirmations=3))
    before = stuck.rpc("evm_snapshot")
    sent = await transactions.submit(Call(AWAY, value=7), "transfer")
    stuck.mine(2)
    assert await transactions.outcomes() == ()
    stuck.rpc("evm_revert", before)
    assert (await chain.balance(AWAY), await chain.receipt(sent.tx_hash)) == (0, None)
    stuck.mine(5)
    assert await transactions.outcomes() == (), "it is only broadcast again"
    stuck.mine(3)
    (mined,) = await transactions.outcomes()
    assert mined.transaction == sent
    assert await chain.balance(AWAY) == 7


async def test_a_nonce_taken_by_another_process_is_noticed_once_it_is_deep(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    transactions = sender(chain, stuck, clock, policy=replace(POLICY, confirmations=2))
    sent = await transactions.submit(Call(AWAY, value=7), "transfer")
    stuck.rpc("anvil_dropAllTransactions")
    other = sender(chain, stuck, clock)
    await other.submit(Call(AWAY, value=1), "of another process")
    stuck.mine()
    assert await transactions.outcomes() == ()
    stuck.mine()
    assert await transactions.outcomes() == ()  # one look is not believed
    clock.advance(10)
    assert await transactions.outcomes() == (Displaced(sent),)
    assert await chain.balance(AWAY) == 1


async def test_what_the_account_cannot_pay_is_never_signed(stuck: Anvil, chain: Chain, clock: ManualClock) -> None:
    key, journal = SigningKey.generate(), MemoryJournal()
    stuck.rpc("anvil_setBalance", key.address, hex(30_000 * GWEI))
    poor = TransactionSender(chain, key, journal, clock, POLICY)
    with pytest.raises(InsufficientFunds, match=r"at least 1 ether on .* found 0.00003 ether: fund the account"):
        await poor.submit(Call(AWAY, value=10**18), "transfer")
    with pytest.raises(InsufficientFunds, match=r"at least 0.000078\d* ether"):
        await poor.submit(Call(AWAY), "transfer")
    assert await journal.pending() == []


async def test_funds_that_went_since_are_named(stuck: Anvil, chain: Chain, clock: ManualClock) -> None:
    journal = MemoryJournal()
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as lying:
        endpoint.change = lambda method, result: hex(10**24) if method == "eth_getBalance" else result
        key = SigningKey.generate()
        stuck.rpc("anvil_setBalance", key.address, hex(10_000 * GWEI))
        with pytest.raises(InsufficientFunds, match="for all that is in flight"):
            await TransactionSender(lying, key, journal, clock, POLICY).submit(Call(AWAY), "transfer")
    assert await journal.pending() == []


async def test_a_transaction_that_arrived_without_an_answer_is_in_flight(
    stuck: Anvil, chain: Chain, clock: ManualClock
) -> None:
    journal = MemoryJournal()
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as failing:
        transactions = sender(failing, stuck, clock, journal)
        endpoint.swallow = "eth_sendRawTransaction"
        sent = await transactions.submit(Call(AWAY, value=7), "transfer")
        with pytest.raises(ChainUnavailable):
            await transactions.outcomes()
        endpoint.swallow = None
        assert await transactions.outcomes() == (), "known already"
        stuck.mine()
        (mined,) = await transactions.outcomes()
    assert mined.transaction == sent
    assert await chain.balance(AWAY) == 7


async def test_what_an_endpoint_refuses_for_good_leaves_no_gap(stuck: Anvil, clock: ManualClock) -> None:
    journal = MemoryJournal()
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as chain:
        transactions = sender(chain, stuck, clock, journal)
        first = await transactions.submit(Call(AWAY, value=1), "transfer")
        endpoint.refusal = "tx fee exceeds the configured cap"
        with pytest.raises(ChainError, match="tx fee exceeds the configured cap"):
            await transactions.submit(Call(AWAY, value=2), "transfer")
        endpoint.refusal = None
        second = await transactions.submit(Call(AWAY, value=4), "transfer")
        assert second.tx_nonce == first.tx_nonce + 1
        stuck.mine()
        assert len(await transactions.outcomes()) == 2
        assert await chain.balance(AWAY) == 5


async def test_a_gap_that_a_pool_forgot_is_filled(stuck: Anvil, clock: ManualClock) -> None:
    """An endpoint says that the account's next transaction is in its pool, and later that it is not."""
    journal = MemoryJournal()
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as chain:
        transactions = sender(chain, stuck, clock, journal)
        endpoint.change = lambda method, result: (
            hex(int(result, 16) + 1) if (method, *endpoint.params[1:]) == (COUNT, "pending") else result
        )
        sent = await transactions.submit(Call(AWAY, value=7), "transfer")
        endpoint.change = lambda _method, result: result
        stuck.mine()
        assert await transactions.outcomes() == ()
        assert await journal.pending() == [sent], "the other one may still come"
        clock.advance(60)
        for _ in range(2):
            assert await transactions.outcomes() == ()
        assert {version.tx_nonce for version in await journal.pending()} == {sent.tx_nonce - 1, sent.tx_nonce}
        stuck.mine()
        found = await transactions.outcomes()
        assert [outcome.transaction.purpose for outcome in found] == ["fill a gap", "transfer"]
        assert await chain.balance(AWAY) == 7


class UnforgettingJournal(MemoryJournal):
    """The process dies before a transaction that was refused is forgotten."""

    async def forget(self, tx_nonce: int) -> None:  # noqa: ARG002
        raise Killed


async def test_what_endpoints_refuse_for_good_does_not_hold_up_the_account(stuck: Anvil, clock: ManualClock) -> None:
    journal = UnforgettingJournal()
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as chain:
        endpoint.refusal = "tx fee exceeds the configured cap"
        with pytest.raises(Killed):
            await sender(chain, stuck, clock, journal).submit(Call(AWAY, value=7), "transfer")
        (refused,) = await journal.pending()
        revived = sender(chain, stuck, clock, journal)
        assert await revived.outcomes() == ()
        clock.advance(60)
        endpoint.refusal = None
        assert await revived.outcomes() == ()
        stuck.mine()
        assert await revived.outcomes() == ()  # one look is not believed
        clock.advance(10)
        assert await revived.outcomes() == (Displaced(refused),)
        assert await chain.balance(AWAY) == 0


async def test_a_refusal_is_not_believed_if_another_endpoint_may_have_taken_it(
    stuck: Anvil, clock: ManualClock
) -> None:
    async with (
        unreliable(stuck.url) as taking,
        unreliable(stuck.url) as refusing,
        connect(taking.url, refusing.url) as chain,
    ):
        transactions = sender(chain, stuck, clock)
        taking.swallow, refusing.refusal = "eth_sendRawTransaction", "exceeds block gas limit"
        sent = await transactions.submit(Call(AWAY, value=7), "transfer")
        stuck.mine()
        (mined,) = await transactions.outcomes()
        assert mined.transaction == sent


@pytest.mark.parametrize(("field", "lie"), [("number", hex(10**6)), ("number", "0x6"), ("hash", "0x" + "ee" * 32)])
async def test_a_head_that_is_a_lie_confirms_nothing(
    stuck: Anvil, chain: Chain, clock: ManualClock, field: str, lie: str
) -> None:
    policy = replace(POLICY, confirmations=3)
    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as lying:
        transactions = sender(lying, stuck, clock, policy=policy)
        await transactions.submit(Call(AWAY, value=7), "transfer")
        stuck.mine()
        assert await chain.head() < 4
        endpoint.change = lambda method, result: (
            result | {field: lie} if (method, endpoint.params[:1]) == ("eth_getBlockByNumber", ["latest"]) else result
        )
        with suppress(ChainUnavailable):  # a block at that height cannot be had
            assert await transactions.outcomes() == ()
        endpoint.change = lambda _method, result: result
        stuck.mine(2)
        (mined,) = await transactions.outcomes()
        assert isinstance(mined, Mined)


async def test_no_endpoint_alone_is_believed(stuck: Anvil, clock: ManualClock) -> None:
    """The second one is another fork, where the transaction is not mined; then it has nothing to say."""
    with run_anvil("--timestamp", str(int(time.time()) - 10)) as other:
        async with connect(stuck.url, other.url) as chain:
            transactions = sender(chain, stuck, clock)
            await transactions.submit(Call(AWAY, value=7), "transfer")
            stuck.mine()
            assert await transactions.outcomes() == ()
            other.stop()
            (mined,) = await transactions.outcomes()
            assert isinstance(mined, Mined)


async def test_what_a_transaction_did_is_not_believed_of_one_endpoint(stuck: Anvil, clock: ManualClock) -> None:
    """The first one says that there was an event, which there was not."""

    def lie(method: str, result: Any) -> Any:
        event = {"address": AWAY, "topics": [], "data": "0x", "blockNumber": "0x1", "logIndex": "0x0"}
        return result | {"logs": [event]} if method == "eth_getTransactionReceipt" else result

    async with unreliable(stuck.url) as endpoint, connect(endpoint.url, stuck.url) as chain:
        transactions = sender(chain, stuck, clock)
        await transactions.submit(Call(AWAY, value=7), "transfer")
        stuck.mine()
        endpoint.change = lie
        assert await transactions.outcomes() == ()
        endpoint.change = lambda _method, result: result
        (mined,) = await transactions.outcomes()
        assert isinstance(mined, Mined)
        assert mined.logs == ()


async def test_an_impossible_receipt_is_no_outcome(stuck: Anvil, clock: ManualClock) -> None:
    def change(method: str, result: Any) -> Any:
        return result | {"gasUsed": hex(2**60)} if method == "eth_getTransactionReceipt" else result

    async with unreliable(stuck.url) as endpoint, connect(endpoint.url) as chain:
        transactions = sender(chain, stuck, clock)
        await transactions.submit(Call(AWAY, value=7), "transfer")
        stuck.mine()
        endpoint.change = change
        with pytest.raises(ChainUnavailable, match="an impossible one"):
            await transactions.outcomes()
