"""The redeemer against the real contract: whatever happens, winners are paid once, and nothing stands in their way."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.ports.tickets import TicketTotals
from node.service import redemption
from tandem.chain.broker import TicketBroker
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import Call, TransactionSender
from tandem.clock import SystemClock
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import TicketParams
from tests.fixtures.anvil import Anvil, transaction_sender
from tests.integration.node.redeeming import FACE, POLICY, redeeming, rounds, win

ETHER = 10**18
ROOT = Path(__file__).parents[3]


@dataclass(slots=True)
class World:
    anvil: Anvil
    broker: TicketBroker
    store: SqliteTicketStore
    chain: ChainSection
    path: Path
    operator: TransactionSender

    @property
    def node(self) -> SigningKey:
        return self.anvil.keys[1]

    async def does(self, *calls: Call) -> None:
        """The sender of the tickets, on the contract."""
        for call in calls:
            await self.operator.send(call, "a test's")

    async def wins(self, count: int, signer: SigningKey | None = None, *, first: int = 0) -> TicketParams:
        sender = self.operator.address
        nonces = range(first, first + count)
        return await win(self.store, self.chain, self.node, sender, signer or self.anvil.keys[0], nonces)

    async def totals(self) -> TicketTotals:
        return await self.store.totals(SystemClock().now())

    async def until(self, condition: Callable[[TicketTotals], bool]) -> TicketTotals:
        async with asyncio.timeout(20):
            while not condition(found := await self.totals()):
                pass
        return found

    async def balance(self) -> int:
        return await self.broker.chain.balance(self.node.address)


@pytest.fixture
async def world(tmp_path: Path, anvil: Anvil, broker: TicketBroker) -> AsyncIterator[World]:
    """A sender without funds, and a node without winners."""
    chain = ChainSection(rpc=(anvil.url,), contract=broker.address, confirmations=1, poll=0.02, stall=0)
    path = tmp_path / "tickets.db"
    async with SqliteTicketStore(path, anvil.keys[1].address, chain.domain) as store:
        yield World(anvil, broker, store, chain, path, transaction_sender(broker.chain, anvil.keys[0]))


def deposit(world: World, amount: int = ETHER) -> Call:
    return world.broker.fund_deposit(world.operator.address, amount)


async def kill_at(world: World, point: str) -> None:
    """Lets a process redeem up to this point, and kills it there."""
    arguments = (world.path, world.anvil.url, world.broker.address, world.node.secret.hex(), point)
    command = [sys.executable, "-m", "tests.integration.node.redeeming", *(str(each) for each in arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert (await process.stdout.readline()).decode().strip() == point
    process.kill()
    await process.communicate()


@pytest.mark.parametrize("point", ["journalled", "broadcast", "mined", "settled"])
async def test_a_node_that_is_killed_is_paid_once(world: World, point: str) -> None:
    await world.does(deposit(world))
    await world.wins(3)
    before = await world.balance()
    world.anvil.rpc("evm_setAutomine", point != "broadcast")
    try:
        await kill_at(world, point)
        sent = await world.store.pending()
        assert (len(sent), (await world.totals()).in_flight) == ((0, 0) if point == "settled" else (1, 3 * FACE))
        if point == "journalled":
            assert await world.broker.chain.transaction_count(world.node.address, "pending") == 0
        async with redeeming(world.store, world.chain, world.node):
            if point == "broadcast":
                world.anvil.mine()
            found = await world.until(lambda totals: totals.redeemed > 0)
    finally:
        world.anvil.rpc("evm_setAutomine", True)  # noqa: FBT003 - as anvil has it
    assert (found.redeemed, found.in_flight, found.outstanding) == (3 * FACE, 0, 0)
    assert await world.balance() - before == 3 * FACE - found.gas_spent
    assert await world.broker.chain.transaction_count(world.node.address, "pending") == 1


async def test_winners_that_a_reorganisation_takes_back_are_redeemed_again(world: World) -> None:
    await world.does(deposit(world))
    before = await world.balance()
    params = await world.wins(2)
    chain = world.chain.model_copy(update={"confirmations": 3})
    async with redeeming(world.store, chain, world.node) as bell:
        async with asyncio.timeout(20):
            while not await world.broker.is_redeemed(params, 1):
                pass
        world.anvil.rpc("anvil_reorg", 1, [])
        assert (await world.totals()).in_flight == 2 * FACE
        async with asyncio.timeout(20):
            while not await world.broker.is_redeemed(params, 1):
                bell.ring()
                world.anvil.mine()
        world.anvil.mine(3)
        found = await world.until(lambda totals: totals.redeemed > 0)
    assert await world.balance() - before == 2 * FACE - found.gas_spent


async def test_winners_are_put_back_even_by_a_reorganisation_that_goes_deeper_than_they_were_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redemption, "_LOOK_BACK_SECONDS", 0.0)
    await world.does(deposit(world))
    before = await world.balance()
    await world.wins(2)
    async with redeeming(world.store, world.chain, world.node) as bell:
        await world.until(lambda totals: totals.redeemed > 0)
        await rounds(bell)
        world.anvil.rpc("anvil_reorg", 1, [])
        assert await world.balance() == before
        async with asyncio.timeout(20):
            while await world.balance() == before:
                bell.ring()
        found = await world.until(lambda totals: totals.redeemed > 0)
    assert await world.balance() - before == 2 * FACE - found.gas_spent


async def test_a_tx_nonce_that_is_used_again_after_a_reorganisation_takes_nothing_back_that_was_paid(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.does(deposit(world))
    before = await world.balance()
    await world.wins(2)
    async with redeeming(world.store, world.chain, world.node) as bell:
        await world.until(lambda totals: totals.redeemed == 2 * FACE)
        await rounds(bell)
        world.anvil.rpc("anvil_reorg", 1, [])
        world.anvil.rpc("anvil_dropAllTransactions")
        await world.wins(3)
        bell.ring()
        await world.until(lambda totals: totals.redeemed == 5 * FACE)
        assert await world.broker.chain.transaction_count(world.node.address, "latest") == 1
    monkeypatch.setattr(redemption, "_LOOK_BACK_SECONDS", 0.0)
    async with redeeming(world.store, world.chain, world.node) as bell:
        await world.until(lambda totals: totals.redeemed == 3 * FACE)
        bell.ring()
        found = await world.until(lambda totals: totals.redeemed == 5 * FACE)
    assert await world.balance() - before == 5 * FACE - found.gas_spent
    assert await world.broker.chain.transaction_count(world.node.address, "latest") == 2


async def test_a_stuck_transaction_is_replaced_and_others_pass_it(world: World) -> None:
    await world.does(deposit(world))
    before = await world.balance()
    chain = world.chain.model_copy(update={"replace_after": 0.2})
    with world.anvil.mining_on_demand():
        await world.wins(2)
        async with redeeming(world.store, chain, world.node) as bell:
            await world.until(lambda totals: totals.in_flight == 2 * FACE)
            await world.wins(1)
            bell.ring()
            await world.until(lambda totals: totals.in_flight == 3 * FACE)
            async with asyncio.timeout(20):
                while len(await world.store.pending()) < 3:
                    pass
            world.anvil.mine()
            found = await world.until(lambda totals: totals.redeemed == 3 * FACE)
    assert await world.store.pending() == ()
    assert await world.balance() - before == 3 * FACE - found.gas_spent


async def test_unfunded_winners_wait_without_spending_gas(world: World) -> None:
    """Their random number was revealed by those that could be paid, which takes nothing from them."""
    await world.does(deposit(world, 2 * FACE))
    await world.wins(5)
    async with redeeming(world.store, world.chain, world.node) as bell:
        found = await world.until(lambda totals: totals.redeemed > 0)
        assert (found.redeemed, found.outstanding) == (2 * FACE, 3 * FACE)
        await rounds(bell, 3)
        assert (await world.totals()).gas_spent == found.gas_spent
        await world.does(deposit(world))
        bell.ring()
        await world.until(lambda totals: totals.redeemed == 5 * FACE)
    assert (await world.totals()).refused == {}


async def test_a_bad_ticket_is_set_aside_with_its_reason(world: World) -> None:
    await world.does(deposit(world))
    await world.wins(2, world.anvil.keys[5])  # which was never authorised
    await world.wins(3)
    async with redeeming(world.store, world.chain, world.node):
        found = await world.until(lambda totals: totals.redeemed > 0)
    assert (found.redeemed, found.refused) == (3 * FACE, {"unauthorised_signer": 2})
    assert (found.outstanding, found.in_flight) == (0, 0)


@pytest.mark.parametrize("leaves", ["unlock", "lower", "revoke"])
async def test_a_sender_that_leaves_is_redeemed_from_at_once(world: World, leaves: str) -> None:
    sender, signer, broker = world.operator.address, world.anvil.keys[2], world.broker
    allocate = broker.allocate([(world.node.address, ETHER)])
    await world.does(broker.fund_reserve(sender, ETHER), allocate, broker.authorise_signer(signer.address))
    calls = {
        "unlock": broker.unlock(),
        "lower": broker.allocate([(world.node.address, ETHER // 2)]),
        "revoke": broker.revoke_signer(signer.address),
    }
    await world.wins(2, signer)
    patient = replace(POLICY, gas_percent=0)  # gas is never cheap enough
    async with redeeming(world.store, world.chain, world.node, patient) as bell:
        await rounds(bell, 2)
        assert (await world.totals()).in_flight == 0
        await world.does(calls[leaves])
        bell.ring()
        assert (await world.until(lambda totals: totals.redeemed > 0)).redeemed == 2 * FACE


async def test_an_account_without_gas_money_is_no_end(world: World) -> None:
    await world.does(deposit(world))
    await world.wins(1)
    balance = await world.balance()
    world.anvil.rpc("anvil_setBalance", world.node.address, "0x0")
    async with redeeming(world.store, world.chain, world.node) as bell:
        await rounds(bell)
        assert (await world.totals()).in_flight == 0
        world.anvil.rpc("anvil_setBalance", world.node.address, hex(balance))
        bell.ring()
        await world.until(lambda totals: totals.redeemed > 0)
