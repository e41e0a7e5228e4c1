"""What the web asks of requests on line."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.core.online import OnlineAnswer, OnlineCall
from tandem.protocol.errors import TandemError
from tandem.protocol.models import ModelInfo

Done = Callable[[OnlineAnswer | TandemError], None]
"""Told once how a request ended."""

BUCKETS_US = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000)
"""Upper bounds of the histograms' buckets; one more takes the rest."""


@dataclass(slots=True)
class Histogram:
    """Microseconds: how many fell into each bucket of `BUCKETS_US`, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_US) + 1))
    total: int = 0

    def add(self, value: int) -> None:
        self.counts[bisect_left(BUCKETS_US, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class ModelStats:
    """Live counters of one model since this process began; versions of the same files, settings and cost share them."""

    answered: int = 0
    inferences: int = 0
    """Rows of answered requests: the first dimension where the model batches, else one a request."""
    executions: float = 0
    """Runs of the model; a run of four requests counts as a quarter with each."""
    last_at: float = 0
    """Of the last answer, in seconds since the epoch."""
    failures: dict[str, int] = field(default_factory=dict)
    """Requests that failed, by error code; `cancelled` are those whose client went away."""
    batches: dict[int, int] = field(default_factory=dict)
    """Answers by the number of requests that were run together."""
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
    """From the call to the answer."""
    waiting: int = 0
    running: int = 0
    retried: int = 0
    hedged: int = 0

    def add(self, call: OnlineCall, queue_us: int, run_us: int, total_us: int, batch: int) -> None:
        """An answer, of a run of `batch` requests."""
        shape = call.inputs[0].shape if call.inputs and call.model.batchable else ()
        self.answered += 1
        self.inferences += max(1, shape[0]) if shape else 1
        self.executions += 1 / batch
        self.batches[batch] = self.batches.get(batch, 0) + 1
        self.queue.add(queue_us)
        self.compute.add(run_us)
        self.total.add(total_us)


class OnlineInference(Protocol):
    def submit(self, call: OnlineCall, done: Done) -> Callable[[], object]:
        """Asks a node. What is returned cancels the run on the node at once, as long as `done` was not called.

        `done` is never called before this returns. Raises Overloaded if too many wait, Unavailable where there is no
        node for the model; later come DeadlineExceeded, and what the run itself raises: InvalidTensor, InvalidModel,
        ExecutionFailed, TooLarge.
        """
        ...

    async def infer(self, call: OnlineCall) -> OnlineAnswer:
        """The same, for whoever waits; raises what `done` would be told, and cancels the run if it is cancelled."""
        ...

    def stats(self, name: str) -> ModelStats:
        """Of what is served by this name, `ModelInfo.served`; zeros if it was never asked for."""
        ...

    def all_stats(self) -> Mapping[str, ModelStats]:
        """By the name of what is served."""
        ...

    def ready(self, name: str) -> bool:
        """Whether a node has the model warm."""
        ...

    async def load(self, model: ModelInfo) -> None:
        """Has a node make it warm, and returns once one has. Raises why none can."""
        ...

    async def unload(self, name: str) -> None:
        """Has every node let go of it: it was deleted, or its settings have changed."""
        ...
