"""The contract's events in the ledger, read from a real chain."""

import logging

import pytest

from orchestrator.core.reconciliation import Reconciliation, reconcile
from orchestrator.core.records import Cursor, Failure
from orchestrator.service.ledger import contract_figures
from tandem.protocol.errors import ChainError, ChainUnavailable
from tests.integration.orchestrator.chain import AWAY, ETHER, FACE, Books, catch_up


async def cursor_of(books: Books) -> Cursor:
    cursor = await books.store.cursor(books.contract.source)
    assert cursor is not None
    return cursor


async def reconciled(books: Books) -> Reconciliation:
    found = await books.store.books(books.contract.source)
    return reconcile(found, books.contract.source, await contract_figures(found, books.contract))


async def test_the_ledger_says_what_the_contract_holds_to_the_wei(books: Books) -> None:
    await books.fund(deposit=3 * FACE)
    await books.do(books.broker.allocate([(books.node.address, ETHER // 2)]))
    tickets = await books.pay(5)
    await books.redeem(tickets[1:])  # one of the four is paid from the reserve
    watcher = books.watcher()
    await catch_up(watcher)
    found = await reconciled(books)
    assert found.differences == ()
    assert found.contract is not None
    assert (found.contract.deposit, found.contract.reserve) == (0, ETHER - FACE)
    assert found.chain == ETHER - FACE
    (node,) = found.nodes
    assert (node.node, node.totals.redeemed, node.totals.owed, node.unissued) == (books.node.address, 4 * FACE, 0, 0)
    assert watcher.watched is not None
    assert (watcher.watched.reserve, watcher.watched.difference) == (ETHER - FACE, 0)
    assert (await cursor_of(books)).block_number == await books.chain.head()


async def test_money_of_others_is_not_ours(books: Books) -> None:
    await books.fund()
    await books.do(books.broker.fund_deposit(books.anvil.keys[7].address, 5 * ETHER))
    await catch_up(books.watcher())
    assert (await reconciled(books)).chain == 2 * ETHER


async def test_it_goes_on_where_it_was_after_a_restart_and_reads_nothing_twice(books: Books) -> None:
    await books.fund()
    await catch_up(books.watcher())
    first = (await cursor_of(books)).block_number
    books.contract.ranges.clear()
    await books.do(books.broker.fund_deposit(books.operator.address, 7))
    await catch_up(books.watcher())
    await catch_up(books.watcher())
    assert books.contract.ranges == [(first + 1, first + 1)]
    assert (await reconciled(books)).chain == 2 * ETHER + 7


async def test_a_big_gap_is_read_in_steps_that_the_endpoint_can_serve(books: Books) -> None:
    await books.fund()
    books.anvil.mine(40)
    books.contract.most_blocks = 7
    watcher = books.watcher(most_blocks=25)
    await catch_up(watcher)
    lengths = [last - first + 1 for first, last in books.contract.ranges]
    assert max(lengths) <= 7
    assert all(a[1] + 1 == b[0] for a, b in zip(books.contract.ranges, books.contract.ranges[1:], strict=False))
    assert (await reconciled(books)).differences == ()


async def test_only_blocks_that_are_deep_enough_count(books: Books) -> None:
    await books.fund()
    watcher = books.watcher(confirmations=3)
    await catch_up(watcher)
    assert (await cursor_of(books)).block_number == await books.chain.head() - 2
    assert (await cursor_of(books)).balance == ETHER  # the deposit; the reserve is one block too young
    books.anvil.mine(2)
    await catch_up(watcher)
    assert (await reconciled(books)).chain == 2 * ETHER


async def test_a_reorganisation_takes_back_what_vanished(books: Books) -> None:
    await books.fund()
    watcher = books.watcher()
    await catch_up(watcher)
    tickets = await books.pay(2)
    await books.redeem(tickets)
    await books.do(books.broker.fund_deposit(books.operator.address, 7))
    await catch_up(watcher)
    assert (await reconciled(books)).chain == 2 * ETHER + 7 - 2 * FACE
    books.anvil.rpc("anvil_reorg", 2, [])
    assert await watcher.look() is False  # a pause: an endpoint that says now this, now that, must not fill the ledger
    assert (await cursor_of(books)).reorganisations == 1
    await catch_up(watcher)
    found = await reconciled(books)
    assert found.differences == ()
    assert found.chain == 2 * ETHER
    assert (await books.store.account(books.node.address)).redeemed == 0
    assert (await cursor_of(books)).reorganisations == 1
    await books.redeem(tickets)
    await catch_up(watcher)
    found = await reconciled(books)
    assert (found.chain, found.differences) == (2 * ETHER - 2 * FACE, ())


async def test_a_reorganisation_back_to_the_beginning(books: Books) -> None:
    start = await books.chain.head()
    await books.fund()
    watcher = books.watcher(from_block=start + 1)
    await catch_up(watcher)
    books.anvil.rpc("anvil_reorg", 3, [])
    books.anvil.mine()
    await catch_up(watcher)
    assert (await reconciled(books)).chain == 0


async def test_tickets_that_were_never_issued_are_shouted_about(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    await books.fund()
    tickets = await books.pay(2)
    await books.redeem([*tickets, *books.forge(9)])
    await catch_up(books.watcher())
    (shout,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert shout.getMessage() == "unissued_tickets_redeemed"
    found = await reconciled(books)
    (difference,) = found.differences
    assert f"paid {FACE} wei to {books.node.address} for tickets that were never issued" in difference
    assert found.nodes[0].unissued == FACE


async def test_tickets_that_were_refused_and_redeemed_are_noticed(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    await books.fund()
    tickets = await books.pay(2)
    (payment,) = await books.store.open_payments(books.node.address)
    refusal = Failure("ticket_unfunded", "no", retryable=False)
    await books.store.record_receipt(books.node.address, payment.id, refusal)
    await books.redeem(tickets[:1])
    await catch_up(books.watcher())
    assert "refused_tickets_redeemed" in [record.getMessage() for record in caplog.records]
    assert (await books.store.account(books.node.address)).refused == 0
    assert (await reconciled(books)).differences == ()


@pytest.mark.parametrize("call", ["head", "first_block", "block", "events", "funds"])
async def test_a_chain_that_does_not_answer_is_asked_again(books: Books, call: str) -> None:
    await books.fund()
    books.contract.failures[call] = [AWAY]
    watcher = books.watcher()
    assert not await watcher.look()
    while await watcher.look():
        pass
    assert (await reconciled(books)).chain == 2 * ETHER


async def test_pauses_grow_while_the_chain_is_away_and_it_is_said_once(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    books.contract.failures["head"] = [AWAY] * 3
    watcher = books.watcher()
    pauses = []
    for _ in range(4):
        await watcher.look()
        pauses.append(watcher._pause())
    assert pauses == [10, 20, 40, 5]
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("chain_watch_failed") == 1
    assert messages.count("chain_watch_resumed") == 1


async def test_an_endpoint_that_refuses_a_single_block_is_a_failure(books: Books) -> None:
    await books.fund()
    books.contract.most_blocks = 0
    with pytest.raises(ChainError, match="at most 0 blocks"):
        await catch_up(books.watcher())


async def test_a_contract_that_holds_other_than_the_ledger_says_is_a_difference(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    start = await books.chain.head()
    await books.do(books.broker.fund_deposit(books.operator.address, 7))
    await books.fund()
    watcher = books.watcher(from_block=start + 2)  # too late
    await catch_up(watcher)
    await catch_up(watcher)
    assert watcher.watched is not None
    assert watcher.watched.difference == 7
    assert [record.getMessage() for record in caplog.records].count("ledger_difference") == 1
    (difference,) = (await reconciled(books)).differences
    assert difference.endswith("+7 wei")


async def test_figures_are_compared_on_one_chain_alone(books: Books) -> None:
    found = await books.store.books(books.contract.source)
    with pytest.raises(ChainUnavailable, match=r"no block was read into the ledger of 0x.*correct chain.sender"):
        await contract_figures(found, books.contract)
    await books.fund()
    await catch_up(books.watcher())
    found = await books.store.books(books.contract.source)
    books.anvil.rpc("anvil_reorg", 1, [])
    with pytest.raises(ChainUnavailable, match="has vanished"):
        await contract_figures(found, books.contract)
