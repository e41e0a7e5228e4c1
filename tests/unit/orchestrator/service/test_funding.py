"""When the funds are looked at. What comes of it is in tests/integration/orchestrator."""

import asyncio
from typing import Any, cast

from orchestrator.core.funding import FundingPolicy
from orchestrator.service.funding import FundsWatcher
from orchestrator.service.nodes import ConnectedNode, Nodes
from tests.fixtures.clock import ManualClock
from tests.fixtures.protocol import NODE, offer
from tests.unit.orchestrator.service.conftest import Recorder


class Looking(FundsWatcher):
    """Says that it looked, and looks at nothing."""

    def __init__(self, clock: ManualClock, nodes: Nodes) -> None:
        nothing = cast("Any", None)
        super().__init__(nothing, nothing, nodes, clock, cast("FundingPolicy", nothing), None, ())
        self.looks: asyncio.Queue[float] = asyncio.Queue()

    async def look(self) -> None:
        self.looks.put_nowait(self._clock.now())


async def test_a_node_that_connects_is_seen_to_within_seconds(clock: ManualClock) -> None:
    nodes = Nodes()
    watcher = Looking(clock, nodes)
    running = asyncio.ensure_future(watcher.run())
    began = await watcher.looks.get()
    nodes.add(ConnectedNode(NODE.address, Recorder(), offer(), began))
    await pause(clock, 5)
    assert await watcher.looks.get() == began + 5
    nodes.add(ConnectedNode(NODE.address, Recorder(), offer(), began))  # its next session: no news
    await pause(clock, 5)
    await pause(clock, 54)
    assert watcher.looks.empty()
    await pause(clock, 1)
    assert await watcher.looks.get() == began + 65
    running.cancel()


async def pause(clock: ManualClock, seconds: float) -> None:
    while not clock.sleepers:  # noqa: ASYNC110 - a sleeper makes no event
        await asyncio.sleep(0)
    clock.advance(seconds)
