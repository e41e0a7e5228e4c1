"""On-line usage of the orchestrator: counted at once, owed window by window."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.adapters.store import open_store
from orchestrator.ports.store import Store
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.usage import Usage
from tandem.protocol.messages import OrchestratorMessage, UsageWindow
from tandem.protocol.models import ModelInfo
from tests.fixtures.clock import ManualClock
from tests.fixtures.links import NoRequests
from tests.fixtures.protocol import NODE, STRANGER, offer

DIGITS = ModelInfo(
    name="digits", version="1", artifact=f"sha256:{0:064x}", size=1, inputs=(), outputs=(), cost_us=1, memory=1
)


class Wire(NoRequests):
    def __init__(self) -> None:
        self.said: list[OrchestratorMessage] = []
        self.heard = asyncio.Event()

    def send(self, message: OrchestratorMessage, _tensors: object = ()) -> None:
        self.said.append(message)
        self.heard.set()

    def close(self, code: str, reason: str) -> None:
        raise AssertionError(f"{code}: {reason}")


class Side:
    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.nodes = Nodes()
        self.registry = CollectorRegistry()
        self.rings = 0
        self.usage = Usage(store, self.nodes, clock, 1.0, self.ring, self.registry)
        self.wire = Wire()
        self.node = ConnectedNode(NODE.address, self.wire, offer().model_copy(update={"max_unpaid": 100}), 0.0)
        self.nodes.add(self.node)

    def ring(self) -> None:
        self.rings += 1

    def accept(self, price: int, node: str = NODE.address) -> None:
        self.usage.add(node, "local", DIGITS, price)


@pytest.fixture
async def side(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Side]:
    async with open_store(f"sqlite:///{tmp_path / 'db'}", clock) as store:
        yield Side(store, clock)


async def next_window(side: Side) -> None:
    async with asyncio.timeout(5):
        await side.wire.heard.wait()
    side.wire.heard.clear()


async def test_requests_take_room_until_they_are_paid(side: Side) -> None:
    side.usage.begin(side.node, 30)
    assert (side.node.room, side.node.state().exposure) == (70, 30)
    side.usage.end(side.node, 30)
    side.accept(30)
    assert (side.node.room, side.node.state().exposure) == (70, 30)
    await side.usage.settle()
    assert (side.node.unsettled, side.node.unpaid, side.node.room, side.rings) == (0, 30, 70, 1)


async def test_a_window_is_one_entry_a_node(side: Side) -> None:
    for price in (1, 2, 3):
        side.accept(price)
    side.accept(7, STRANGER.address)
    await side.usage.settle()
    await side.usage.settle()
    (window,) = side.wire.said
    assert isinstance(window, UsageWindow)
    assert (window.requests, window.price) == (3, 6)
    assert (await side.store.account(STRANGER.address)).earned == 7
    assert (await side.store.books("source")).balance.entries == 2
    assert side.registry.get_sample_value("tandem_usage_requests_total") == 4
    assert side.registry.get_sample_value("tandem_usage_wei_total") == 13


async def test_windows_are_said_until_they_are_answered(side: Side, clock: ManualClock) -> None:
    side.accept(5)
    await side.usage.settle()
    clock.advance(1)
    side.accept(6)
    first, last = await side.usage.resume(NODE.address)
    assert (first.price, last.price) == (5, 6)
    await side.usage.receipt(side.node, first.id)
    assert await side.usage.resume(NODE.address) == (last,)


async def test_a_window_ends_with_its_time_or_early_if_it_is_worth_much(side: Side, clock: ManualClock) -> None:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(side.usage.run())
        side.accept(25)
        for _ in range(9):
            await asyncio.sleep(0)
        assert side.wire.said == []
        clock.advance(1.0)
        await next_window(side)
        side.accept(26)
        await next_window(side)
        side.accept(1)
        side.usage.settle_soon()
        await next_window(side)
        running.cancel()


async def test_a_clean_stop_settles_what_is_left(side: Side) -> None:
    running = asyncio.create_task(side.usage.run())
    await asyncio.sleep(0)
    side.accept(9)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (await side.store.account(NODE.address)).earned == 9


async def test_a_window_whose_write_failed_is_written_by_the_next(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.accept(5)

    async def fail(_windows: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(side.store, "settle_usage", fail)
        with pytest.raises(OSError, match="full"):
            await side.usage.settle()
    side.accept(6)
    await side.usage.settle()
    assert (await side.store.account(NODE.address)).earned == 11
    assert side.node.unsettled == 0
