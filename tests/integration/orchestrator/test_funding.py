"""Deposit, reserve and allocations at their levels, on a real chain."""

import logging
from dataclasses import dataclass, replace

import pytest

from orchestrator.adapters.contract import EthereumTreasury
from orchestrator.core.funding import FundingPolicy
from orchestrator.service.funding import FundsWatcher
from orchestrator.service.nodes import ConnectedNode, Nodes
from tandem.chain.broker import SenderFunds
from tandem.chain.transactions import TransactionPolicy
from tandem.clock import SystemClock
from tandem.protocol.signing import Address
from tests.conformance.store.samples import earn
from tests.fixtures.anvil import UNLOCK_PERIOD
from tests.fixtures.protocol import offer
from tests.integration.orchestrator.chain import AWAY, ETHER, FACE, Books, catch_up
from tests.unit.orchestrator.service.conftest import Recorder

POLICY = FundingPolicy(
    deposit=ETHER,
    reserve=2 * ETHER,
    allocation=ETHER,
    trial=ETHER // 10,
    trial_percent=20,
    refill_below_percent=50,
    max_a_day=10 * ETHER,
    idle_seconds=1000,
)
ADVICE = ('--rpc "$RPC"', "--contract 0xc0")


@dataclass
class Purse:
    """A funds watcher with the sender's key, over and over again as after a restart."""

    books: Books
    nodes: Nodes

    def watcher(self, *, key: bool = True, **changes: object) -> FundsWatcher:
        books = self.books
        policy = replace(POLICY, **changes)  # type: ignore[arg-type]
        return FundsWatcher(
            books.store, books.contract, self.nodes, books.clock, policy, self.treasury() if key else None, ADVICE
        )

    def treasury(self) -> EthereumTreasury:
        journal = self.books.store.journal(f"31337:{self.books.operator.address}")
        contract = self.books.contract.contract
        return EthereumTreasury(contract, self.books.operator, journal, SystemClock(), TransactionPolicy())

    def connect(self, node: Address) -> None:
        self.nodes.add(ConnectedNode(node, Recorder(), offer(), self.books.clock.now()))

    async def funds(self, node: Address | None = None) -> SenderFunds:
        return await self.books.broker.funds(self.books.operator.address, node or self.books.node.address)


@pytest.fixture
def purse(books: Books) -> Purse:
    return Purse(books, Nodes())


def details(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.__dict__["tandem_fields"]["detail"] for record in caplog.records if record.getMessage() == "funds_low"
    ]


async def test_levels_are_restored_and_stay(purse: Purse) -> None:
    purse.connect(purse.books.node.address)
    watcher = purse.watcher()
    for _ in range(5):
        await watcher.look()
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (ETHER, 2 * ETHER)
    assert (funds.allocation, funds.allocated) == (ETHER // 10, ETHER // 10)
    assert await purse.books.store.spent_since(0) == 3 * ETHER
    # What is paid out is filled up again, once it is enough to be worth it.
    await purse.books.do(purse.books.broker.authorise_signer(purse.books.signer.address))
    tickets = purse.books.forge(*range(60))
    await purse.books.redeem(tickets[:50])
    await watcher.look()
    assert (await purse.funds()).deposit == ETHER // 2
    await purse.books.redeem(tickets[50:])
    await watcher.look()
    assert (await purse.funds()).deposit == ETHER


async def test_a_useful_node_is_promised_more_and_an_idle_one_nothing(purse: Purse) -> None:
    books, node = purse.books, purse.books.node.address
    purse.connect(node)
    watcher = purse.watcher()
    for _ in range(3):
        await watcher.look()
    await earn(books.store, ETHER // 2, node=node)
    await watcher.look()
    assert (await purse.funds()).allocation == ETHER * 6 // 10
    # The node goes away for good: what was promised is lowered, waits for the unlock period, and is freed.
    await catch_up(books.watcher())
    purse.nodes.remove(node, next(iter(purse.nodes)).link)
    await watcher.look()
    assert (await purse.funds()).lowers_at is None
    books.clock.advance(1000)
    await watcher.look()
    funds = await purse.funds()
    assert (funds.allocation, funds.promised(), funds.allocated) == (ETHER * 6 // 10, 0, ETHER * 6 // 10)
    books.anvil.warp(UNLOCK_PERIOD)
    for _ in range(3):
        await watcher.look()
    funds = await purse.funds()
    assert (funds.allocation, funds.allocated, funds.lowers_at) == (0, 0, None)


async def test_what_is_in_flight_is_waited_for_and_found_again_after_a_crash(purse: Purse) -> None:
    with purse.books.anvil.mining_on_demand():
        await purse.watcher().look()
        for _ in range(2):
            await purse.watcher().look()
        assert await purse.books.store.spent_since(0) == 3 * ETHER
        purse.books.anvil.mine()
        for _ in range(2):
            await purse.watcher().look()
        purse.books.anvil.mine()
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (ETHER, 2 * ETHER)
    assert await purse.books.store.spent_since(0) == 3 * ETHER


async def test_a_day_has_a_bound_that_outlasts_a_crash(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await purse.watcher(max_a_day=3 * ETHER // 2).look()
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (ETHER, ETHER // 2)
    assert "funding.max_a_day leaves 0" in details(caplog)[-1]
    purse.books.clock.advance(86_401)
    for _ in range(2):
        await purse.watcher(max_a_day=3 * ETHER // 2).look()
    assert (await purse.funds()).reserve == 2 * ETHER


async def test_without_a_key_it_says_what_to_do_once(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    books = purse.books
    caplog.set_level(logging.INFO)
    watcher = purse.watcher(key=False)
    for _ in range(2):
        await watcher.look()
    sender = books.operator.address
    command = f'tandem chain fund --rpc "$RPC" --contract 0xc0 --sender {sender}'
    assert details(caplog) == [
        f"the deposit is low; run: {command} --deposit {ETHER}",
        f"the reserve is low; run: {command} --reserve {2 * ETHER}",
    ]
    await books.fund(reserve=2 * ETHER)
    caplog.clear()
    await watcher.look()
    assert [record.getMessage() for record in caplog.records] == ["funds_sufficient"]
    purse.connect(books.node.address)
    await watcher.look()
    await watcher.look()
    (advice,) = details(caplog)
    assert advice.endswith(f'tandem chain allocate --rpc "$RPC" --contract 0xc0 {books.node.address} {ETHER // 10}')
    assert (await purse.funds()).allocated == 0


async def test_what_could_not_be_sent_is_not_counted(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    books = purse.books
    books.anvil.rpc("anvil_setBalance", books.operator.address, hex(ETHER // 10))
    watcher = purse.watcher()
    for _ in range(2):
        await watcher.look()
    assert await books.store.spent_since(0) == 0
    assert [record.getMessage() for record in caplog.records].count("funds_watch_failed") == 1
    books.anvil.rpc("anvil_setBalance", books.operator.address, hex(10 * ETHER))
    books.contract.failures["funds"] = [AWAY]
    for _ in range(3):
        await watcher.look()
    assert (await purse.funds()).reserve == 2 * ETHER


async def test_nothing_is_funded_while_the_sender_unlocks(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    await purse.books.fund(deposit=FACE, reserve=FACE)
    await purse.books.do(purse.books.broker.unlock())
    await purse.watcher().look()
    assert (await purse.funds()).deposit == FACE
    assert "being unlocked" in details(caplog)[0]
