"""Deposit, reserve and allocations at their levels, on a real chain."""

import logging

import pytest

from orchestrator.service.nodes import Nodes
from tests.conformance.store.samples import earn
from tests.fixtures.anvil import UNLOCK_PERIOD
from tests.integration.orchestrator.chain import AWAY, ETHER, FACE, Books, Purse, catch_up


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
    await purse.look(watcher, 5)
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (ETHER, 2 * ETHER)
    assert (funds.allocation, funds.allocated) == (ETHER // 10, ETHER // 10)
    assert await purse.books.store.spent_since(0) == 3 * ETHER
    # What is paid out is filled up again, once it is enough to be worth it.
    await purse.books.do(purse.books.broker.authorise_signer(purse.books.signer.address))
    tickets = purse.books.forge(*range(60))
    await purse.books.redeem(tickets[:50])
    await purse.look(watcher)
    assert (await purse.funds()).deposit == ETHER // 2
    await purse.books.redeem(tickets[50:])
    await purse.look(watcher)
    assert (await purse.funds()).deposit == ETHER


async def test_a_useful_node_is_promised_more_and_an_idle_one_nothing(purse: Purse) -> None:
    books, node = purse.books, purse.books.node.address
    purse.connect(node)
    watcher = purse.watcher()
    await purse.look(watcher, 3)
    await earn(books.store, ETHER // 2, node=node)
    await purse.look(watcher)
    assert (await purse.funds()).allocation == ETHER * 6 // 10
    # The node goes away for good: what was promised is lowered, waits for the unlock period, and is freed.
    await catch_up(books.watcher())
    purse.nodes.remove(node, next(iter(purse.nodes)).link)
    await purse.look(watcher)
    assert (await purse.funds()).lowers_at is None
    books.clock.advance(1000)
    await purse.look(watcher)
    funds = await purse.funds()
    assert (funds.allocation, funds.promised(), funds.allocated) == (ETHER * 6 // 10, 0, ETHER * 6 // 10)
    books.anvil.warp(UNLOCK_PERIOD)
    await purse.look(watcher, 3)
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
    await purse.look(purse.watcher(max_a_day=3 * ETHER // 2), 3)
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (ETHER, ETHER // 2)
    assert "funding.max_a_day leaves 0" in details(caplog)[-1]
    purse.books.clock.advance(86_401)
    await purse.look(purse.watcher(max_a_day=3 * ETHER // 2), 2)
    assert (await purse.funds()).reserve == 2 * ETHER


async def test_without_a_key_it_says_what_to_do_once(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    books = purse.books
    caplog.set_level(logging.INFO)
    watcher = purse.watcher(key=False)
    await purse.look(watcher, 2)
    sender = books.operator.address
    command = f'tandem chain fund --rpc "$RPC" --contract 0xc0 --sender {sender}'
    assert details(caplog) == [
        f"the deposit is low; run: {command} --deposit {ETHER}",
        f"the reserve is low; run: {command} --reserve {2 * ETHER}",
    ]
    await books.fund(reserve=2 * ETHER)
    caplog.clear()
    await purse.look(watcher)
    assert [record.getMessage() for record in caplog.records] == ["funds_sufficient"]
    purse.connect(books.node.address)
    await purse.look(watcher)
    await purse.look(watcher)
    (advice,) = details(caplog)
    assert advice.endswith(f'tandem chain allocate --rpc "$RPC" --contract 0xc0 {books.node.address} {ETHER // 10}')
    assert (await purse.funds()).allocated == 0


async def test_what_could_not_be_sent_is_not_counted(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    books = purse.books
    books.anvil.rpc("anvil_setBalance", books.operator.address, hex(ETHER // 10))
    watcher = purse.watcher()
    await purse.look(watcher, 2)
    assert await books.store.spent_since(0) == 0
    assert [record.getMessage() for record in caplog.records].count("funds_watch_failed") == 1
    books.anvil.rpc("anvil_setBalance", books.operator.address, hex(10 * ETHER))
    books.contract.failures["funds"] = [AWAY]
    await purse.look(watcher, 3)
    assert (await purse.funds()).reserve == 2 * ETHER


async def test_nothing_is_funded_while_the_sender_unlocks(purse: Purse, caplog: pytest.LogCaptureFixture) -> None:
    await purse.books.fund(deposit=FACE, reserve=FACE)
    await purse.books.do(purse.books.broker.unlock())
    await purse.look(purse.watcher())
    assert (await purse.funds()).deposit == FACE
    assert "being unlocked" in details(caplog)[0]
