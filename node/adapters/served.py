"""A model that the node serves, and the requests for it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from node.adapters.seats import Seat
from node.adapters.worker import Order, Worker
from node.core.batching import Key, key_of, rows_of
from node.core.meter import Meter
from node.ports.execution import Done, ModelFiles, ModelLoaded
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Tensor

FAST_US = 1000
"""A run below this is over before waiting for it elsewhere would be worth it."""
_WEIGHT = 8


@dataclass(slots=True, eq=False)
class Served:
    files: ModelFiles
    settings: ModelSettings
    pinned: bool
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is loaded or loaded anew."""
    loaded: ModelLoaded | None = None
    seats: dict[Seat, ModelLoaded] = field(default_factory=dict)
    """Whose workers have it loaded."""
    lost: set[Seat] = field(default_factory=set)
    """Whose next workers are to load it anew."""
    spreading: set[Seat] = field(default_factory=set)
    """Where it is being loaded besides, or could not be."""
    queue: "deque[Request]" = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    running: int = 0
    typical_us: int = FAST_US
    splits: bool = True
    """Whether answers of requests that were run together could be told apart so far."""
    strikes: int = 0
    """Workers that ended while they ran it, since it last answered."""
    gone: bool = False
    meter: Meter = field(default_factory=Meter)

    @property
    def idle(self) -> bool:
        return not (self.running or self.queue or self.lock.locked())

    @property
    def fast(self) -> bool:
        return self.typical_us < FAST_US

    @property
    def batches(self) -> bool:
        return self.settings.max_batch > 1 and self.splits and self.loaded is not None and self.loaded.batchable

    def ran(self, run_us: int) -> None:
        self.strikes = 0
        self.typical_us += (run_us - self.typical_us) // _WEIGHT

    def take(self, now: float) -> "list[Request]":
        """The next requests to be run as one, or none if they should wait for more until `wait_until`."""
        self._drop_cancelled()
        if not self.queue:
            return []
        if not self.queue[0].rows or not self.batches:
            return [self.queue.popleft()]
        group, rows = self._group()
        if rows < self.settings.max_batch and len(group) == len(self.queue) and now < self.wait_until:
            return []
        for _ in group:
            self.queue.popleft()
        return group

    @property
    def wait_until(self) -> float:
        return self.queue[0].since + self.settings.batch_window_us / 1e6

    def _group(self) -> "tuple[list[Request], int]":
        """Those at the head of the queue that fit together; the first in any case."""
        group: list[Request] = []
        rows = 0
        for request in self.queue:
            fits = request.rows and request.key == self.queue[0].key and rows + request.rows <= self.settings.max_batch
            if group and (not fits or request.over):
                break
            group.append(request)
            rows += request.rows
        return group, rows

    def _drop_cancelled(self) -> None:
        while self.queue and self.queue[0].over:
            self.queue.popleft()


class Request:
    """One request, from when it is handed in until its callback is called or it is cancelled."""

    __slots__ = (
        "_cancelled",
        "again",
        "batch",
        "batches",
        "done",
        "inputs",
        "key",
        "outputs",
        "over",
        "rows",
        "served",
        "since",
        "size",
    )

    def __init__(
        self,
        served: Served,
        tensors: tuple[Sequence[Tensor], Sequence[str]],
        done: Done,
        since: float,
        cancelled: "Callable[[Request], None]",
    ) -> None:
        self.served = served
        self.inputs, self.outputs = tensors[0], tuple(tensors[1])
        self.done = done
        self.since = since
        self.over = False
        self.again = False
        """Whether it is in the queue for the second time."""
        self.batch: Batch | None = None
        self.size = sum([len(tensor.data) for tensor in self.inputs])
        self.rows, self.key = 0, _NO_KEY
        self.batches = served.batches
        if self.batches:
            self.rows, self.key = rows_of(self.inputs), key_of(self.inputs, self.outputs)
        self._cancelled = cancelled

    def cancel(self) -> None:
        if not self.over:
            self._cancelled(self)


_NO_KEY: Key = ((), ())


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that are run as one; mostly it is one alone."""

    served: Served
    requests: list[Request]
    seat: Seat
    worker: Worker
    fast: bool
    sent: float
    order: Order | None = None
