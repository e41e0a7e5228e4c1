"""A store and a connected node, for services that act on both."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.adapters.store import open_store
from orchestrator.ports.store import Store
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.tracking import Tracker
from tandem.protocol.messages import OrchestratorMessage
from tandem.protocol.signing import Address
from tandem.protocol.tensors import Tensor
from tests.fixtures.clock import ManualClock
from tests.fixtures.links import NoRequests
from tests.fixtures.protocol import NODE, offer


@dataclass
class Recorder(NoRequests):
    """A link that keeps what is sent; like a real one it drops what is sent after its close."""

    sent: list[OrchestratorMessage] = field(default_factory=list)
    closed: bool = False

    def send(self, message: OrchestratorMessage, tensors: tuple[Tensor, ...] = ()) -> None:  # noqa: ARG002
        if not self.closed:
            self.sent.append(message)

    def close(self, code: str, reason: str) -> None:  # noqa: ARG002
        self.closed = True


@dataclass
class Market:
    """Nodes that come and come again."""

    store: Store
    clock: ManualClock
    nodes: Nodes = field(default_factory=Nodes)
    tracker: Tracker = field(default_factory=Tracker)

    def connect(self, address: Address = NODE.address) -> tuple[ConnectedNode, Recorder]:
        link = Recorder()
        node = ConnectedNode(address, link, offer(), self.clock.now())
        self.nodes.add(node)
        return node, link


@pytest.fixture
async def market(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Market]:
    async with open_store(f"sqlite:///{tmp_path / 'tandem.db'}", clock) as store:
        yield Market(store, clock)
