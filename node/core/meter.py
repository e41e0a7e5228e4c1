"""What a model's requests came to, counted as they end."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BOUNDS_US = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
"""Upper bounds of a histogram's buckets, in microseconds; one more bucket holds what is beyond."""
BOUNDS_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(slots=True)
class Histogram:
    bounds: tuple[int, ...]
    counts: list[int] = field(default_factory=list)
    total: int = 0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def _microseconds() -> Histogram:
    return Histogram(BOUNDS_US)


@dataclass(slots=True)
class Meter:
    """Of one model, from when the daemon first heard of it. Times are in microseconds."""

    requests: int = 0
    """That ended well."""
    failures: Counter[str] = field(default_factory=Counter)
    """By the error's code; `cancelled` counts those that nobody waited for any more."""
    loads: int = 0
    """Into a worker's memory, those after a crash included."""
    hits: int = 0
    """Requests that found the model loaded."""
    queue: Histogram = field(default_factory=_microseconds)
    run: Histogram = field(default_factory=_microseconds)
    total: Histogram = field(default_factory=_microseconds)
    """From when a request was handed in until its answer is given out."""
    batches: Histogram = field(default_factory=lambda: Histogram(BOUNDS_BATCH))
    """Requests that were run together, counted once for each run."""
