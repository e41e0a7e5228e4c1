"""The memory that requests for inferences hold at one time: bodies that come in, and answers that go out."""

from types import TracebackType
from typing import Self

from tandem.protocol.errors import Overloaded

SMALL = 2**20
"""Bytes. Larger bodies leave the last eighth of the memory to those that are not."""

_RETRY_SECONDS = 2.0


class Memory:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def claim(self) -> "Claim":
        return Claim(self)

    def take(self, size: int) -> None:
        """Raises Overloaded if so many bytes are not to be had now."""
        free = self.limit - self.used - (self.limit // 8 if size > SMALL else 0)
        if size > free:
            raise Overloaded(
                f"expected at most {max(0, free)} bytes, free for requests now, got {size}; send it again later",
                _RETRY_SECONDS,
            )
        self.used += size


class Claim:
    """What one request holds; given back at its end."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        self._memory.take(size)
        self._size += size

    def note(self, size: int) -> None:
        """Counts what is there already."""
        self._memory.used += size
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.used -= self._size
        self._size = 0
