"""What owners hold of something that all of them use, and whose turn it is."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar


class Holdings:
    """How much each owner holds."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def of(self, owner: str) -> int:
        return self._of.get(owner, 0)

    def add(self, owner: str, amount: int) -> None:
        """A negative amount is given back; an owner that holds nothing is forgotten."""
        left = self._of.get(owner, 0) + amount
        if left:
            self._of[owner] = left
        else:
            self._of.pop(owner, None)


Item = TypeVar("Item")
Waiting = tuple[int, int, Item]
"""What waits, after its priority and its place, both so that the lowest goes first."""


class Line(Generic[Item]):
    """What waits. Owners take turns; which of an owner's goes in its turn is by priority, and then the oldest.

    So a priority is worth something against one's own requests alone, and nobody waits for all of another's.
    """

    __slots__ = ("_count", "_of", "_places")

    def __init__(self) -> None:
        self._of: dict[str, list[Waiting[Item]]] = {}
        """Heaps, of the owner first whose turn it is. One of whom nothing waits keeps its place until that comes."""
        self._places = count(1)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return (item for waiting in self._of.values() for *_, item in waiting)

    @property
    def owners(self) -> list[str]:
        """The one whose turn it is first."""
        return list(self._of)

    def add(self, owner: str, priority: int, item: Item, *, before: bool = False) -> None:
        """`before`: before all others of the owner that have its priority."""
        place = next(self._places)
        self.put_back(owner, (-priority, -place if before else place, item))

    def take(self, owner: str) -> Waiting[Item] | None:
        """The owner's next one, whose turn this is; say then whether it was `put_back` or its turn is `over`."""
        waiting = self._of.get(owner)
        if not waiting:
            return None
        self._count -= 1
        return heappop(waiting)

    def put_back(self, owner: str, entry: Waiting[Item]) -> None:
        """It still waits, and its owner's turn has not been."""
        heappush(self._of.setdefault(owner, []), entry)
        self._count += 1

    def over(self, owner: str) -> None:
        """The owner has had its turn, or nothing that it could have one with."""
        waiting = self._of.pop(owner, None)
        if waiting:
            self._of[owner] = waiting

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Lets go of all else."""
        self._of = {
            owner: kept
            for owner, waiting in self._of.items()
            if (kept := [each for each in waiting if wanted(each[2])])
        }
        for waiting in self._of.values():
            heapify(waiting)
        self._count = sum(map(len, self._of.values()))


class Room:
    """For requests that wait: so many for each model, so many bytes for all, and of both a share for each owner."""

    __slots__ = ("_bytes", "_held", "_most_bytes", "_own", "_own_bytes", "_queue")

    def __init__(self, queue: int, most_bytes: int, share: float) -> None:
        self._queue = queue
        self._most_bytes = most_bytes
        self._own, self._own_bytes = max(1, int(queue * share)), int(most_bytes * share)
        self._bytes = 0
        self._held = Holdings()

    def refusal(self, waiting: int, held: Holdings, owner: str, size: int) -> str | None:
        """The bound that a further request is beyond; `held`: how many wait for its model, `waiting` in all."""
        if waiting >= self._queue:
            return f"fewer than {self._queue} requests (online.queue)"
        if self._bytes + size > self._most_bytes:
            return f"at most {self._most_bytes} bytes (online.queue_bytes)"
        if held.of(owner) >= self._own:
            return f"fewer than {self._own} requests of one key (online.share)"
        if self._held.of(owner) + size > self._own_bytes:
            return f"at most {self._own_bytes} bytes of one key (online.share)"
        return None

    def add(self, held: Holdings, owner: str, size: int) -> None:
        """A request waits."""
        self._bytes += size
        self._held.add(owner, size)
        held.add(owner, 1)

    def drop(self, held: Holdings, owner: str, size: int) -> None:
        """It does not any more."""
        self._bytes -= size
        self._held.add(owner, -size)
        held.add(owner, -1)
