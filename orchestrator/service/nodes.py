"""The nodes that are connected right now. The live session is the offer: when it goes, the capacity goes."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from orchestrator.core.checks import Trust
from orchestrator.core.scheduling import Load, NodeState, Obstacle, Reason
from orchestrator.ports.nodes import NodeLink
from tandem.protocol.capacity import Capacity
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import Offer

_DECAY = 0.9
"""Weight of the past in a node's reliability, an attempt."""
_PACE_DECAY = 0.5
_REMEMBERED = 4096
"""Nodes of which it is known, beyond their sessions, what checks have shown."""
_SOURCES = 16
"""So many of the artifacts that a node fetched last it is taken to have still."""


@dataclass(slots=True)
class ConnectedNode:
    """One live session and what the scheduler keeps in mind about it."""

    address: str
    link: NodeLink
    offer: Offer
    connected_at: float
    loads: dict[AttemptRef, Load] = field(default_factory=dict)
    unpaid: int = 0
    in_flight: int = 0
    """Wei of on-line requests that are on their way."""
    unsettled: int = 0
    """Wei of on-line requests that were accepted and are in no window yet."""
    open_payments: int = 0
    """Sent or to be sent again, and not answered."""
    has_terms: bool = False
    gone: tuple[AttemptRef, ...] = ()
    """Attempts that it came back with, and that were no longer its own."""
    withheld: Reason | None = None
    """Why it gets neither work nor tickets, whatever its terms."""
    reliability: float = 1.0
    trust: Trust = field(default_factory=Trust)
    pace: float | None = None
    sources: dict[str, None] = field(default_factory=dict)
    """The latest last."""

    def state(self) -> NodeState:
        return NodeState(
            address=self.address,
            offer=self.offer,
            loads=dict(self.loads),
            unpaid=self.unpaid + self.in_flight + self.unsettled,
            has_terms=self.has_terms,
            withheld=self.withheld or self.trust.suspended,
            reliability=self.reliability,
            pace=self.pace,
            sources=frozenset(self.sources),
        )

    @property
    def is_payable(self) -> bool:
        return self.has_terms and self.withheld is None and self.trust.suspended is None

    @property
    def room(self) -> int:
        """Wei of further work before the node would be owed more than it allows; below zero beyond that."""
        owed = self.unpaid + self.in_flight + self.unsettled
        return self.offer.max_unpaid - owed - sum(load.price for load in self.loads.values())

    def score(self, *, accepted: bool) -> None:
        self.reliability = _DECAY * self.reliability + (1 - _DECAY) * accepted

    def timed(self, pace: float) -> None:
        """An attempt was `pace` times as fast as the measured speed promises."""
        self.pace = pace if self.pace is None else _PACE_DECAY * self.pace + (1 - _PACE_DECAY) * pace

    def fetches(self, artifact: str) -> None:
        self.sources.pop(artifact, None)
        self.sources[artifact] = None
        for oldest in list(self.sources)[:-_SOURCES]:
            del self.sources[oldest]


class Nodes:
    """By address; a node that connects again takes the place of its older session."""

    def __init__(self) -> None:
        self._connected: dict[str, ConnectedNode] = {}
        self._trust: dict[str, Trust] = {}
        self.arrived = asyncio.Event()
        """Set when a node connects that was not there. Whoever waits for it clears it."""

    def __iter__(self) -> Iterator[ConnectedNode]:
        return iter(list(self._connected.values()))

    def __len__(self) -> int:
        return len(self._connected)

    def states(self) -> list[NodeState]:
        """As the scheduler sees them."""
        return [node.state() for node in self]

    def get(self, address: str) -> ConnectedNode | None:
        return self._connected.get(address)

    def add(self, node: ConnectedNode) -> None:
        older = self._connected.get(node.address)
        if older is not None:
            node.reliability, node.pace, node.sources = older.reliability, older.pace, older.sources
            older.link.close("conflict", "the node has opened a newer session")
        node.trust = self.trust(node.address)
        self._connected[node.address] = node
        if older is None:
            self.arrived.set()

    def remove(self, address: str, link: NodeLink) -> bool:
        """Forgets the session `link`; False: a newer one of the same node stays, or it was gone already."""
        node = self._connected.get(address)
        if node is None or node.link is not link:
            return False
        del self._connected[address]
        return True

    def trust(self, address: str) -> Trust:
        """What checks have shown of a node, connected or not."""
        found = self._trust.pop(address, None) or Trust()
        self._trust[address] = found
        if len(self._trust) > _REMEMBERED:
            away = [each for each in self._trust if each not in self._connected and each != address]
            harmless = [each for each in away if self._trust[each].suspended is None]
            for oldest in (harmless or away)[:1]:
                del self._trust[oldest]
        return found

    def suspended(self) -> list[tuple[str, Trust]]:
        """Nodes that get no work for what checks have shown, connected or not."""
        return [(address, trust) for address, trust in self._trust.items() if trust.suspended is not None]

    def promised(self, addresses: Iterable[str]) -> None:
        """Their allocations have changed: tickets that they refused for want of backing are tried again."""
        for address in addresses:
            node = self._connected.get(address)
            if node is not None and node.withheld is not None and node.withheld.obstacle is Obstacle.UNFUNDED:
                node.withheld = None

    def idle(self, address: str, ref: AttemptRef) -> None:
        """The attempt's work is done: it takes up no room any more, but its price is still at stake."""
        node = self._connected.get(address)
        if node is not None and ref in node.loads:
            node.loads[ref] = replace(node.loads[ref], need=Capacity())

    def release(self, address: str, ref: AttemptRef) -> None:
        """The attempt takes up nothing any more."""
        node = self._connected.get(address)
        if node is not None:
            node.loads.pop(ref, None)
