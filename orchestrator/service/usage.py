"""On-line usage: counted in memory as it is accepted, and owed once a window of it is in the store.

Every `seconds`, all that was accepted since is written in one transaction: a window a node, which the node hears of
until it answers. What a SIGKILL loses is what was accepted since the last window; a drop of the session, and a clean
stop, lose nothing. A window's id is given here, so that one whose commit was not heard of can be written again.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter

from orchestrator.core.records import UsageShare, UsageWindowRecord
from orchestrator.ports.store import Store
from orchestrator.service.nodes import ConnectedNode, Nodes
from tandem.clock import Clock
from tandem.protocol.ids import window_id
from tandem.protocol.messages import MAX_WINDOWS, UsageWindow
from tandem.protocol.models import ModelInfo
from tandem.waiting import Bell

_ENTROPY_BYTES = 8
_EARLY = 4
"""A window ends early once it is worth this part of what its node lets itself be owed, which it is to be paid for."""

_Key = tuple[str, str, str]
"""Owner, model, version."""


@dataclass(slots=True)
class _Pending:
    """Of one node: what is in no window yet."""

    price: int = 0
    shares: dict[_Key, list[int]] = field(default_factory=dict)
    """Requests and wei."""


class Usage:
    """`seconds`: the length of a window. `owed` is called when nodes are owed more."""

    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        clock: Clock,
        seconds: float,
        owed: Callable[[], None],
        registry: CollectorRegistry,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._clock = clock
        self._seconds = seconds
        self._owed = owed
        self._bell = Bell(clock)
        self._lock = asyncio.Lock()
        self._pending: dict[str, _Pending] = {}
        self._requests, self._price = (
            Counter(f"tandem_usage_{name}", f"{text}.", registry=registry)  # of no model: anybody may read it
            for name, text in (("requests", "Accepted on-line requests"), ("wei", "Wei owed for on-line requests"))
        )
        self._settling: dict[str, UsageWindowRecord] = {}
        """By id: ended, and not known to be in the store."""

    # --- for every request

    def begin(self, node: ConnectedNode, price: int) -> None:
        """A request is on its way to the node; see `ConnectedNode.room` for whether there is room for it."""
        node.in_flight += price

    def end(self, node: ConnectedNode, price: int) -> None:
        """It is not on its way any more, whatever came of it."""
        node.in_flight -= price

    def add(self, node: str, owner: str, model: ModelInfo, price: int) -> None:
        """A result was accepted, and its price is owed to the node."""
        pending = self._pending.get(node)
        if pending is None:
            pending = self._pending[node] = _Pending()
        share = pending.shares.get(key := (owner, model.name, model.version))
        if share is None:
            share = pending.shares[key] = [0, 0]
        share[0] += 1
        share[1] += price
        pending.price += price
        connected = self._nodes.get(node)
        if connected is not None:
            connected.unsettled += price
            if pending.price * _EARLY > connected.offer.max_unpaid:
                self._bell.ring()

    # --- windows

    async def run(self) -> None:
        """Until cancelled; then settles what is left."""
        try:
            while True:
                await self._bell.wait(self._seconds)
                await self.settle()
        finally:
            await self.settle()

    def settle_soon(self) -> None:
        """A session has ended: its node will not hear more of it than what is settled."""
        self._bell.ring()

    async def resume(self, node: str) -> tuple[UsageWindow, ...]:
        """All that the node served in earlier sessions and has not answered for."""
        await self.settle()
        return tuple(map(_message, await self._store.open_windows(node, MAX_WINDOWS)))

    async def receipt(self, node: ConnectedNode, window: str) -> None:
        await self._store.close_window(node.address, window)

    async def settle(self) -> None:
        """Ends the window, and returns once all that was accepted so far is in the store."""
        async with self._lock:
            self._end_windows()
            windows = tuple(self._settling.values())
            if not windows:
                return
            await self._store.settle_usage(windows)
            for window in windows:
                del self._settling[window.id]
                self._said(window)
                self._requests.inc(window.requests)
                self._price.inc(window.price)
        self._owed()

    def _end_windows(self) -> None:
        pending, self._pending = self._pending, {}
        for node, counted in pending.items():
            shares = tuple(UsageShare(*key, requests, price) for key, (requests, price) in counted.shares.items())
            window = UsageWindowRecord(
                id=window_id(self._clock.now(), secrets.token_bytes(_ENTROPY_BYTES)),
                node=node,
                shares=shares,
                requests=sum(share.requests for share in shares),
                price=counted.price,
            )
            self._settling[window.id] = window

    def _said(self, window: UsageWindowRecord) -> None:
        """Acceptances add to `unpaid` as they are committed: from here on it is no longer unsettled."""
        node = self._nodes.get(window.node)
        if node is not None:
            node.unpaid += window.price
            node.unsettled = max(0, node.unsettled - window.price)
            node.link.send(_message(window))


def _message(window: UsageWindowRecord) -> UsageWindow:
    return UsageWindow(id=window.id, requests=window.requests, price=window.price)
