import asyncio

import pytest

from tandem.chain.broker import TicketBroker, deployment
from tandem.chain.rpc import Chain, connect
from tandem.chain.transactions import (
    Call,
    Displaced,
    MemoryJournal,
    Mined,
    Outcome,
    SignedTransaction,
    TransactionPolicy,
    TransactionSender,
)
from tandem.clock import Clock, SystemClock
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError, TransactionReverted
from tandem.protocol.signing import SigningKey
from tests.fixtures.anvil import Anvil, run_anvil
from tests.fixtures.clock import ManualClock

AWAY = "0x" + "99" * 20
POLICY = TransactionPolicy(poll_seconds=0.02)


class Killed(Exception):
    """Stands for the process being killed."""


class KilledJournal(MemoryJournal):
    """Dies at a chosen point, with what was written before still there."""

    def __init__(self, *, after_record: bool) -> None:
        super().__init__()
        self._after_record = after_record

    async def record(self, transaction: SignedTransaction) -> None:
        await super().record(transaction)
        if self._after_record:
            raise Killed


class KillingClock(SystemClock):
    """The process dies when it first waits."""

    async def sleep(self, _seconds: float) -> None:
        raise Killed


class MiningClock(SystemClock):
    """Waiting makes a block, once as many transactions are in the pool as are to be mined together."""

    def __init__(self, anvil: Anvil, together: int = 0) -> None:
        self._anvil = anvil
        self._together = together

    async def sleep(self, _seconds: float) -> None:
        if int(self._anvil.rpc("txpool_status")["pending"], 16) >= self._together:
            self._anvil.mine()
        await super().sleep(0)


def sender(
    chain: Chain,
    key: SigningKey,
    journal: MemoryJournal | None = None,
    clock: Clock | None = None,
    policy: TransactionPolicy = POLICY,
) -> TransactionSender:
    return TransactionSender(chain, key, journal or MemoryJournal(), clock or SystemClock(), policy)


async def final(transactions: TransactionSender) -> tuple[Outcome, ...]:
    """The outcomes of what was broadcast again by this look, or by an earlier one, and is mined at once."""
    return await transactions.outcomes() or await transactions.outcomes()


async def test_concurrent_transactions_take_consecutive_nonces(anvil: Anvil, chain: Chain) -> None:
    transactions = sender(chain, anvil.keys[0])
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(transactions.send(Call(AWAY, value=1), f"transfer {i}")) for i in range(10)]
    nonces = sorted(task.result().transaction.tx_nonce for task in sent)
    assert nonces == list(range(nonces[0], nonces[0] + 10))
    assert await chain.balance(AWAY) == 10


async def test_what_was_recorded_and_never_broadcast_is_sent_after_a_crash(anvil: Anvil, chain: Chain) -> None:
    journal = KilledJournal(after_record=True)
    with pytest.raises(Killed):
        await sender(chain, anvil.keys[0], journal).send(Call(AWAY, value=7), "transfer")
    assert await chain.balance(AWAY) == 0
    revived = sender(chain, anvil.keys[0], journal)
    (mined,) = await final(revived)
    assert isinstance(mined, Mined)
    assert (mined.transaction.purpose, mined.succeeded) == ("transfer", True)
    assert await chain.balance(AWAY) == 7
    await revived.acknowledge(mined)
    assert await journal.pending() == []


async def test_what_was_mined_before_a_crash_is_found_and_not_sent_again(anvil: Anvil, chain: Chain) -> None:
    journal = MemoryJournal()
    mined = await sender(chain, anvil.keys[0], journal).send(Call(AWAY, value=7), "transfer")
    revived = sender(chain, anvil.keys[0], journal)
    assert await revived.outcomes() == (mined,)
    assert await revived.outcomes() == (mined,), "until it is acknowledged"
    again = await revived.send(Call(AWAY, value=1), "another")
    assert again.transaction.tx_nonce == mined.transaction.tx_nonce + 1
    assert await chain.balance(AWAY) == 8


async def test_a_transaction_in_the_pool_at_a_crash_is_awaited(anvil: Anvil, chain: Chain) -> None:
    journal = MemoryJournal()
    with anvil.mining_on_demand():
        with pytest.raises(Killed):
            await sender(chain, anvil.keys[0], journal, KillingClock()).send(Call(AWAY, value=7), "transfer")
        revived = sender(chain, anvil.keys[0], journal)
        assert await revived.outcomes() == ()
        anvil.mine()
        (mined,) = await revived.outcomes()
    assert mined.transaction.purpose == "transfer"
    assert await chain.balance(AWAY) == 7


async def test_a_displaced_transaction_is_noticed(anvil: Anvil, chain: Chain, clock: ManualClock) -> None:
    journal = KilledJournal(after_record=True)
    with pytest.raises(Killed):
        await sender(chain, anvil.keys[0], journal).send(Call(AWAY, value=7), "transfer")
    await sender(chain, anvil.keys[0]).send(Call(AWAY, value=1), "of another process")
    (recorded,) = await journal.pending()
    revived = sender(chain, anvil.keys[0], journal, clock)
    assert await revived.outcomes() == ()  # one look is not believed
    clock.advance(10)
    assert await revived.outcomes() == (Displaced(recorded),)
    await revived.acknowledge(Displaced(recorded))
    assert await journal.pending() == []
    assert await chain.balance(AWAY) == 1


async def test_confirmations_are_counted(anvil: Anvil, chain: Chain) -> None:
    transactions = sender(chain, anvil.keys[0], clock=MiningClock(anvil), policy=TransactionPolicy(confirmations=3))
    mined = await transactions.send(Call(AWAY, value=7), "transfer")
    assert await chain.head() - mined.block_number == 2


async def test_a_reorganisation_is_waited_out(anvil: Anvil, chain: Chain) -> None:
    class ReorganisingClock(MiningClock):
        reorganised = False

        async def sleep(self, seconds: float) -> None:
            if self.reorganised:
                return await super().sleep(seconds)
            self.reorganised = True
            anvil.rpc("anvil_reorg", 1, [])
            return None

    policy = TransactionPolicy(confirmations=2)
    transactions = sender(chain, anvil.keys[0], clock=ReorganisingClock(anvil), policy=policy)
    mined = await transactions.send(Call(AWAY, value=7), "transfer")
    assert mined.succeeded
    assert await chain.balance(AWAY) == 7


async def test_a_revert_is_found_before_it_costs_anything(anvil: Anvil, chain: Chain, broker: TicketBroker) -> None:
    journal = MemoryJournal()
    transactions = sender(chain, anvil.keys[0], journal)
    with pytest.raises(TransactionReverted, match="NotUnlocking"):
        await transactions.send(broker.cancel_unlock(), "cancel unlock")
    assert await journal.pending() == []
    await transactions.send(Call(AWAY, value=1), "the next one")


async def test_a_revert_when_mined_is_reported(anvil: Anvil, chain: Chain, broker: TicketBroker) -> None:
    await sender(chain, anvil.keys[0]).send(broker.unlock(), "unlock")
    journal = MemoryJournal()
    transactions = sender(chain, anvil.keys[0], journal, MiningClock(anvil, together=2))
    with anvil.mining_on_demand():
        async with asyncio.TaskGroup() as group:
            # both pass the estimate; only the first can be mined well
            first = group.create_task(transactions.send(broker.cancel_unlock(), "first"))
            second = group.create_task(_reverted(transactions, broker))
    assert first.result().succeeded
    assert "was reverted when mined" in second.result()
    assert [transaction.purpose for transaction in await journal.pending()] == ["first"]


async def test_an_endpoint_that_refuses_leaves_no_trace(chain: Chain) -> None:
    journal = MemoryJournal()
    poor = sender(chain, SigningKey.generate(), journal)
    with pytest.raises(ChainError):
        await poor.send(Call(AWAY, value=7), "transfer")
    assert await journal.pending() == []


async def test_gas_above_the_cap_is_not_paid() -> None:
    with run_anvil() as anvil:  # its own: going back to a snapshot does not bring the old fee back
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(300 * 10**9))
        async with connect(anvil.url) as chain:
            with pytest.raises(ChainUnavailable, match="wait, or raise max_fee_per_gas"):
                await sender(chain, anvil.keys[0]).send(Call(AWAY, value=7), "transfer")


async def test_an_endpoint_that_stops_answering() -> None:
    with run_anvil() as anvil:
        url = anvil.url
        async with connect(url) as chain:
            deployer = sender(chain, anvil.keys[0])
            mined = await deployer.send(deployment(60), "deploy")
            assert mined.contract is not None
            anvil.stop()
            with pytest.raises(ChainUnavailable, match="no answer"):
                await TicketBroker(chain, mined.contract).unlock_period()
            with pytest.raises(ChainUnavailable, match="no answer"):
                await deployer.send(Call(AWAY, value=1), "transfer")
    with pytest.raises(ChainUnavailable, match="connecting"):
        async with connect(url):
            pass


async def test_another_chain_is_refused(anvil: Anvil) -> None:
    with pytest.raises(ConfigurationError, match=r"expected chain 1, it serves chain 31337"):
        async with connect(anvil.url, chain_id=1):
            pass


async def _reverted(transactions: TransactionSender, broker: TicketBroker) -> str:
    with pytest.raises(TransactionReverted) as caught:
        await transactions.send(broker.cancel_unlock(), "second")
    return str(caught.value)
