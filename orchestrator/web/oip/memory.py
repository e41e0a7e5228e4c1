"""The memory that requests for inferences hold at one time: bodies that come in, and answers that go out."""

from types import TracebackType
from typing import Self

from orchestrator.core.shares import Holdings
from tandem.protocol.errors import Overloaded

SMALL = 2**20
"""Bytes. Larger bodies leave the last eighth of the memory to those that are not."""

_RETRY_SECONDS = 2.0


class Memory:
    """`share` of it may be held by one owner."""

    def __init__(self, limit: int, share: float = 1.0) -> None:
        self.limit = limit
        self.share = int(limit * share)
        self.used = 0
        self._held = Holdings()

    def claim(self) -> "Claim":
        return Claim(self)

    def take(self, size: int, owner: str) -> None:
        """Raises Overloaded if so many bytes are not to be had now."""
        own = self.share - self._held.of(owner)
        if size > own:
            raise Overloaded(
                f"expected at most {max(0, own)} bytes, left of {self.share} for one key (limits.inference_share), "
                f"got {size}; wait for answers to other requests first",
                _RETRY_SECONDS,
            )
        free = self.limit - self.used - (self.limit // 8 if size > SMALL else 0)
        if size > free:
            raise Overloaded(
                f"expected at most {max(0, free)} bytes, free for requests now, got {size}; send it again later",
                _RETRY_SECONDS,
            )
        self.add(size, owner)

    def add(self, size: int, owner: str) -> None:
        self.used += size
        self._held.add(owner, size)


class Claim:
    """What one request holds; given back at its end."""

    __slots__ = ("_memory", "_size", "owner")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0
        self.owner = ""
        """Whose request it is; said before anything is taken."""

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        self._memory.take(size, self.owner)
        self._size += size

    def note(self, size: int) -> None:
        """Counts what is there already."""
        self._memory.add(size, self.owner)
        self._size += size

    def release(self) -> None:
        """Gives all of it back."""
        if self._size:
            self._memory.add(-self._size, self.owner)
            self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
