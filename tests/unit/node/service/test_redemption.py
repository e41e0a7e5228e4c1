import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Till, check, fund
from node.core.redemption import RedemptionPolicy
from node.core.standing import Topic
from node.core.terms import Epochs, issue
from node.service.redemption import Redeemer
from tandem.chain.events import Refusal
from tandem.protocol.errors import FeeCapExceeded, InsufficientFunds, TandemError, TransactionReverted
from tandem.protocol.messages import PaymentReceipt, TicketTerms, TicketTermsReply
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import TicketParams, commitment_to
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import ALWAYS, DOMAIN, NODE, SENDER, SIGNER, backing, payment, policy_for, until
from tests.fixtures.till import Till as Counter


class Shop(Counter):
    def __init__(self, store: SqliteTicketStore, clock: ManualClock) -> None:
        super().__init__(store, clock, policy_for(ALWAYS))
        self.contract.journal = store
        self.agreed: TicketParams | None = None
        policy = RedemptionPolicy(gas_percent=10, urgent_before=600)
        self.redeemer = Redeemer(store, self.around, self.terms, clock, policy=policy, bell=self.bell)

    async def sell(self, nonces: range = range(3)) -> TicketParams:
        """Winners on the books."""
        params = await self.agree()
        assert (await self.pay(payment(params, nonces))).accepted
        return params

    async def sell_and_redeem(self, nonces: range) -> TicketParams:
        """As many winners, in a transaction of their own."""
        sent = len(self.contract.redeemed)
        params = self.agreed or await self.agree()
        assert (await self.pay(payment(params, nonces, number=nonces.start + 1))).accepted
        self.agreed = await self.agree()
        await until(lambda: len(self.contract.redeemed) > sent)
        return params

    def ticking(self) -> bool:
        """Lets time pass; whether something was said."""
        self.clock.advance(1)
        return not self.queue.empty()

    async def rounds(self, count: int) -> None:
        """Lets the redeemer have another look."""
        for _ in range(count):
            self.bell.ring()
            await until(lambda: not self.bell._rung.is_set())

    async def settled(self) -> None:
        """Until everything in flight is."""
        self.bell.ring()
        await until(lambda: not self.contract.final)

    async def new_terms(self) -> TicketTerms:
        message = await self.said()
        assert isinstance(message, TicketTerms)
        return message


@pytest.fixture
async def shop(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Shop]:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        shop = Shop(store, clock)
        async with asyncio.TaskGroup() as group:
            loops = (shop.terms.run(), shop.payments.run(), shop.redeemer.run())
            tasks = [group.create_task(loop) for loop in loops]
            await shop.open()
            yield shop
            for task in tasks:
                task.cancel()


async def test_winners_are_redeemed_once_other_terms_are_agreed(shop: Shop) -> None:
    params = await shop.sell()
    new = await shop.new_terms()
    assert new.params.commitment != params.commitment
    assert (shop.contract.redeemed, await shop.store.epochs()) == ([], Epochs(2, 0))
    reply = TicketTermsReply(commitment=new.params.commitment, accepted=True)
    shop.payments.receive(SENDER.address, reply)
    await until(lambda: shop.contract.redeemed)
    ((sets, rands),) = shop.contract.redeemed
    assert await shop.store.epochs() == Epochs(2, 1)
    assert [len(won.tickets) for won in sets] == [3]
    assert commitment_to(rands[0]) == params.commitment
    await shop.settled()
    assert (await shop.store.totals(0)).redeemed == 3000
    assert await shop.store.winners(0) == ()
    assert (await shop.pay(payment(params, [9], number=9))).code == "ticket_revealed"
    assert (await shop.pay(payment(new.params, [9], number=10))).accepted


async def test_an_orchestrator_that_is_silent_does_not_keep_the_money(shop: Shop) -> None:
    await shop.sell()
    await shop.new_terms()
    await until(lambda: shop.redeemer._rotation)
    shop.clock.advance(119)
    await shop.rounds(3)
    assert not shop.contract.redeemed
    shop.clock.advance(1)
    await until(lambda: shop.contract.redeemed)


async def test_winners_wait_while_gas_is_dear(shop: Shop) -> None:
    shop.contract.gas = 1
    shop.clock.advance(15)
    await shop.sell()
    await shop.rounds(2)
    assert shop.queue.empty()
    shop.contract.gas = 0
    shop.clock.advance(15)
    shop.bell.ring()
    assert (await shop.new_terms()).params.expiry


async def test_a_chain_that_is_away_is_asked_again_and_it_is_noted(shop: Shop) -> None:
    await shop.agree()
    shop.contract.away = True
    shop.bell.ring()
    await until(lambda: shop.notes._said.get(Topic.CHAIN))
    shop.contract.away = False
    for _ in range(20):
        shop.clock.advance(15)
        await shop.rounds(1)
    assert shop.notes._said[Topic.CHAIN] == ""


async def test_what_an_earlier_process_left_in_flight_is_settled_before_anything_else(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        shop = Shop(store, clock)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in (shop.terms.run(), shop.payments.run())]
            await shop.open()
            await shop.sell()
            await shop.contract.redeem(await store.winners(0), ())
            tasks.append(group.create_task(shop.redeemer.run()))
            await until(lambda: not shop.contract.final)
            for task in tasks:
                task.cancel()
        assert len(shop.contract.redeemed) == 1
        assert (await store.totals(0)).redeemed == 3000


async def test_a_redemption_that_is_undone_after_it_counted_is_made_again(shop: Shop) -> None:
    await shop.sell_and_redeem(range(2))
    await shop.settled()
    shop.contract.undone = {1}
    shop.clock.advance(60)
    shop.bell.ring()
    await until(lambda: len(shop.contract.redeemed) == 2)
    await shop.settled()
    assert (await shop.store.totals(0)).redeemed == 2000


async def test_a_transaction_in_flight_does_not_stop_others(shop: Shop) -> None:
    shop.contract.mines = False
    first = await shop.sell_and_redeem(range(2))
    second = await shop.sell_and_redeem(range(2, 5))
    assert [len(sets[0].tickets) for sets, _ in shop.contract.redeemed] == [2, 3]
    assert first.commitment != second.commitment
    assert await shop.store.in_flight() == {SENDER.address: 5000}
    shop.contract.mines = True
    await shop.settled()
    assert (await shop.store.totals(0)).redeemed == 5000


async def test_winners_without_funds_wait_until_funds_return(shop: Shop) -> None:
    shop.contract.refusal = Refusal.UNFUNDED
    params = await shop.sell_and_redeem(range(2))
    await shop.settled()
    shop.contract.refusal = None
    for _ in range(5):  # no gas is spent on trying, though the chain says that there is enough
        shop.clock.advance(16)
        await shop.rounds(2)
    assert len(shop.contract.redeemed) == 1
    assert "want of the sender's funds" in shop.notes._said[Topic.REDEMPTION]
    assert (await shop.pay(payment(params, [7], number=9))).code == "ticket_revealed"
    shop.contract.available = 2 * 10**18
    shop.clock.advance(16)
    shop.bell.ring()
    await until(lambda: len(shop.contract.redeemed) == 2)
    await shop.settled()
    assert (await shop.store.totals(0)).redeemed == 2000


async def test_a_ticket_that_is_refused_for_good_is_set_aside(shop: Shop) -> None:
    shop.contract.refusal = Refusal.UNAUTHORISED_SIGNER
    await shop.sell_and_redeem(range(2))
    await shop.settled()
    shop.contract.refusal = None
    await shop.sell_and_redeem(range(2, 5))
    await shop.settled()
    totals = await shop.store.totals(0)
    assert (totals.refused, totals.redeemed) == ({"unauthorised_signer": 2}, 3000)


@pytest.mark.parametrize(
    "error", [InsufficientFunds("no gas money"), FeeCapExceeded("dear"), TransactionReverted("no")]
)
async def test_what_cannot_be_sent_is_noted_and_tried_again(shop: Shop, error: TandemError) -> None:
    shop.contract.refuses = error
    await shop.sell()
    await shop.agree()
    await until(lambda: shop.notes._said.get(Topic.REDEMPTION) == error.detail)
    shop.contract.refuses = None
    shop.bell.ring()
    await until(lambda: shop.contract.redeemed)
    await until(lambda: shop.notes._said[Topic.REDEMPTION] == "")


async def test_a_sender_whose_winners_cannot_be_sent_does_not_stop_others(shop: Shop) -> None:
    others = [SigningKey.from_bytes(bytes([number]) * 32) for number in (7, 8)]
    for other in others:  # one of them comes after the other in any order of addresses
        own = Till(DOMAIN, shop.store.secret, other.address, NODE.address, Epochs(), shop.clock.now(), 60.0)
        params = issue(ALWAYS, shop.store.secret, other.address, NODE.address, 1, int(shop.clock.now()) + 3600)
        checked = check(payment(params, range(1), key=other), own, frozenset())
        await shop.store.take(fund(checked, backing(), 0), bytes(32))
    shop.contract.refuses_of = frozenset({min(other.address for other in others)})
    shop.contract.refuses = TransactionReverted("no")
    await shop.agree()
    shop.bell.ring()
    await shop.agree()
    await until(lambda: shop.contract.redeemed)
    (((planned,), _),) = shop.contract.redeemed
    assert planned.params.sender == max(other.address for other in others)
    assert shop.notes._said[Topic.REDEMPTION] == "no"


async def test_the_revocation_of_a_signer_is_watched_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        shop = Shop(store, clock)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in (shop.terms.run(), shop.payments.run())]
            await shop.open()
            await shop.sell()
            for task in tasks:
                task.cancel()
        again = Shop(store, clock)
        await again.redeemer._plans(await store.winners(0))
        assert again.view._readings[SENDER.address].backing.signers.keys() == {SIGNER.address}


async def test_what_is_mined_and_not_final_is_no_reason_to_refuse(shop: Shop) -> None:
    """The promise has fallen already, and the winners are not written off yet."""
    shop.contract.mines = False
    await shop.sell_and_redeem(range(3))
    shop.contract.promised = 2000
    shop.clock.advance(16)
    assert shop.agreed is not None
    shop.payments.receive(SENDER.address, payment(shop.agreed, [7], number=9))
    await until(shop.payments._queue.empty)
    await shop.rounds(2)
    assert shop.queue.empty()
    shop.contract.mines = True
    await shop.settled()
    await until(shop.ticking)
    receipt = await shop.said()
    assert isinstance(receipt, PaymentReceipt)
    assert receipt.accepted


async def test_a_spike_of_gas_is_noted_and_logged_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.contract.gas = 10
    shop.redeemer._policy = replace(shop.redeemer._policy, max_fee_per_gas=9)
    await shop.sell()
    await until(lambda: "max_fee_per_gas is 9 wei" in shop.notes._said.get(Topic.REDEMPTION, ""))
    await shop.rounds(3)
    logged = [record.message for record in caplog.records if record.message == "redemption_waits_for_gas"]
    assert logged == ["redemption_waits_for_gas"]
    shop.redeemer._policy = replace(shop.redeemer._policy, max_fee_per_gas=10)
    await shop.rounds(2)
    await until(lambda: shop.notes._said[Topic.REDEMPTION] == "")
