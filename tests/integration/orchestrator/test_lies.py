"""Endpoints that lie about the contract: nothing they say gets into the ledger, and they end no process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from orchestrator.adapters.contract import EthereumTicketContract
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from tandem.chain.rpc import connect
from tandem.protocol.errors import ChainUnavailable
from tests.fixtures.endpoint import UnreliableEndpoint, unreliable
from tests.integration.orchestrator.chain import ETHER, Books, catch_up

Logs = list[dict[str, Any]]
Contract = Callable[..., Awaitable[EthereumTicketContract]]


@pytest.fixture
async def liar(books: Books) -> AsyncIterator[UnreliableEndpoint]:
    async with unreliable(books.anvil.url) as endpoint:
        yield endpoint


@pytest.fixture
async def over(books: Books) -> AsyncIterator[Contract]:
    """The contract over these endpoints."""
    async with AsyncExitStack() as stack:

        async def opened(*urls: str) -> EthereumTicketContract:
            domain, sender = books.broker.domain, books.operator.address
            return await stack.enter_async_context(EthereumTicketContract(lambda: connect(*urls), domain, sender))

        yield opened


def watcher(books: Books, contract: EthereumTicketContract) -> ChainWatcher:
    policy = WatchPolicy(confirmations=1, most_blocks=1000, poll_seconds=5)
    return ChainWatcher(books.store, contract, books.clock, policy)


def twice(logs: Logs) -> Logs:
    return [*logs, *logs]


def backwards(logs: Logs) -> Logs:
    return logs[::-1]


def of_another_contract(logs: Logs) -> Logs:
    return [log | {"address": "0x" + "66" * 20} for log in logs]


def of_another_sender(logs: Logs) -> Logs:
    return [log | {"topics": [log["topics"][0], "0x" + "66" * 32, *log["topics"][2:]]} for log in logs]


def of_a_later_block(logs: Logs) -> Logs:
    return [log | {"blockNumber": hex(10**6)} for log in logs]


def removed(logs: Logs) -> Logs:
    return [log | {"removed": True} for log in logs]


def of_another_event(logs: Logs) -> Logs:
    return [log | {"topics": ["0x" + "66" * 32, *log["topics"][1:]]} for log in logs]


def without_topics(logs: Logs) -> Logs:
    return [log | {"topics": []} for log in logs]


def cut_short(logs: Logs) -> Logs:
    return [log | {"data": log["data"][:20]} for log in logs]


def of_another_fork(logs: Logs) -> Logs:
    return [log | {"blockHash": "0x" + "66" * 32} for log in logs]


WRONG = [
    twice,
    backwards,
    of_another_contract,
    of_another_sender,
    of_a_later_block,
    removed,
    of_another_event,
    without_topics,
    cut_short,
    of_another_fork,
]


@pytest.mark.parametrize("change", WRONG)
async def test_events_that_cannot_be_are_read_again_later(
    books: Books, liar: UnreliableEndpoint, over: Contract, change: Callable[[Logs], Logs]
) -> None:
    await books.fund()
    liar.change = lambda method, result: change(result) if method == "eth_getLogs" else result
    contract = await over(liar.url)
    with pytest.raises(ChainUnavailable):
        await watcher(books, contract).advance()
    assert (await books.store.books(contract.source)).balance.entries == 0
    liar.change = lambda _method, result: result
    await catch_up(watcher(books, contract))
    assert (await books.store.books(contract.source)).balance.entries == 2


async def test_no_endpoint_is_believed_alone(books: Books, liar: UnreliableEndpoint, over: Contract) -> None:
    await books.fund()
    contract = await over(liar.url, books.anvil.url)
    head = await books.chain.head()
    liar.change = lambda method, result: [] if method == "eth_getLogs" else result
    with pytest.raises(ChainUnavailable, match="two answers"):
        await watcher(books, contract).advance()
    liar.change = lambda method, result: "0x" + "00" * 32 * 7 if method == "eth_call" else result
    with pytest.raises(ChainUnavailable, match="two answers"):
        await contract.funds(contract.sender, head)
    liar.fail = lambda: web.Response(status=503)
    assert (await contract.funds(contract.sender, head)).deposit == ETHER
    await catch_up(watcher(books, contract))
    assert (await books.store.books(contract.source)).balance.entries == 2


async def test_the_head_is_the_one_furthest_behind_but_not_before_what_was_settled(
    books: Books, liar: UnreliableEndpoint, over: Contract
) -> None:
    await books.fund()
    contract = await over(liar.url, books.anvil.url)
    head = await books.chain.head()
    assert await contract.head() == head
    liar.change = lambda method, result: at(result, head + 9) if method == "eth_getBlockByNumber" else result
    assert await contract.head() == head
    liar.change = lambda method, result: at(result, head - 1) if method == "eth_getBlockByNumber" else result
    assert await contract.head() == head - 1
    contract.settled(head)
    with pytest.raises(ChainUnavailable, match="an endpoint is behind"):
        await contract.head()


def at(block: dict[str, Any], number: int) -> dict[str, Any]:
    return block | {"number": hex(number)}
