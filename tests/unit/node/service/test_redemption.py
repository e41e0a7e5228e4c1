import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.core.redemption import RedemptionPolicy
from node.core.terms import Epochs
from node.service.redemption import Redeemer
from tandem.protocol.messages import TicketTerms, TicketTermsReply
from tandem.protocol.tickets import TicketParams, commitment_to
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import ALWAYS, DOMAIN, NODE, SENDER, paid, payment, until
from tests.unit.node.service.test_payments import Till


class Shop(Till):
    def __init__(self, store: SqliteTicketStore, clock: ManualClock) -> None:
        super().__init__(store, clock, ALWAYS)
        policy = RedemptionPolicy(gas_percent=10, urgent_before=600)
        self.redeemer = Redeemer(store, self.contract, self.view, self.terms, clock, policy=policy, won=self.won)

    async def sell(self, nonces: range = range(3)) -> TicketParams:
        """Winners on the books."""
        params = await self.agree()
        assert (await self.pay(payment(params, nonces))).accepted
        return params

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
    assert (await shop.store.totals(0)).redeemed == 3000
    assert await shop.store.winners(0) == ()
    assert (await shop.pay(payment(params, [9], number=9))).code == "ticket_revealed"
    assert (await shop.pay(payment(new.params, [9], number=10))).accepted


async def test_an_orchestrator_that_is_silent_does_not_keep_the_money(shop: Shop) -> None:
    await shop.sell()
    await shop.new_terms()
    await until(lambda: len(shop.clock._sleepers) > 1)
    shop.clock.advance(119)
    await asyncio.sleep(0)
    assert not shop.contract.redeemed
    shop.clock.advance(1)
    await until(lambda: shop.contract.redeemed)


async def test_winners_wait_while_gas_is_dear(shop: Shop) -> None:
    shop.contract.gas = 1
    await shop.sell()
    await until(lambda: len(shop.clock._sleepers) > 1)
    assert shop.queue.empty()
    shop.contract.gas = 0
    shop.clock.advance(15)
    assert (await shop.new_terms()).params.expiry


async def test_a_chain_that_is_away_is_asked_again(shop: Shop) -> None:
    await until(lambda: shop.redeemer._recovered)
    await shop.agree()
    shop.contract.away = True
    for _ in range(3):
        shop.won.ring()
        shop.clock.advance(15)
        await asyncio.sleep(0)
    shop.contract.away = False
    shop.clock.advance(3600)


async def test_what_was_in_flight_is_settled_before_anything_else(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        shop = Shop(store, clock)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in (shop.terms.run(), shop.payments.run())]
            await shop.open()
            await shop.sell()
            shop.contract.in_flight = (paid(await store.winners(0), 5),)
            tasks.append(group.create_task(shop.redeemer.run()))
            await until(lambda: shop.redeemer._recovered)
            for task in tasks:
                task.cancel()
        assert shop.contract.redeemed == []
        assert (await store.totals(0)).redeemed == 3000
