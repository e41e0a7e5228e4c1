"""Worker processes, each in a seat that is filled anew when one ends."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from node.adapters.worker import Worker
from node.children.wire import Ready
from tandem.protocol.errors import TandemError

_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0
_STEADY_SECONDS = 10.0
"""A worker that lived so long starts its successor at once."""


@dataclass(slots=True, eq=False)
class Seat:
    """Room for one worker process: a GPU, or a group of cores."""

    providers: tuple[str, ...]
    """That it is to try."""
    slots: int
    gpu: bool = False
    worker: Worker | None = None
    facts: Ready | None = None
    """What the last worker that was ready offered."""
    failure: TandemError | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while a worker is ready."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first worker was ready, or failed."""
    busy: int = 0
    """Runs under way."""
    blamed: set[Hashable] = field(default_factory=set)
    """Models that ran when the last worker ended."""
    renew: bool = False
    """Whether the worker is to end once it is idle, for the memory that it has left behind."""
    slow: int = 0
    """Of those, the runs of models that take longer than a moment."""
    delay: float = 0.0

    @property
    def working(self) -> tuple[str, ...]:
        """The providers that passed the trial."""
        return self.facts.providers if self.facts else ()

    def room(self, *, fast: bool) -> bool:
        """Whether one more run may be sent. Behind fast ones one more may wait, so that the worker need not."""
        if self.busy >= self.slots + (fast and not self.slow):
            return False
        return self.worker is not None and not self.worker.stopped and self.up.is_set()

    def begin(self, *, fast: bool) -> None:
        self.busy += 1
        self.slow += not fast

    def end(self, *, fast: bool) -> None:
        self.busy -= 1
        self.slow -= not fast

    def backoff(self, lived: float) -> float:
        """Seconds to wait before the next worker, after one that lived so long."""
        now = 0.0 if lived > _STEADY_SECONDS else self.delay
        self.delay = 0.0 if lived > _STEADY_SECONDS else min(_MAX_DELAY, max(_FIRST_DELAY, 2 * self.delay))
        return now
