"""Messages of streams that are on their way, piece by piece."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message that is sent piece by piece."""

    stream: int
    kind: int
    head: bytes | None
    """Until it is sent."""
    size: int
    """Of the body."""
    parts: deque[memoryview]
    credit: int


@dataclass(slots=True, eq=False)
class Incoming:
    """A message that is received piece by piece."""

    head: bytes
    size: int
    """Of the body, as announced."""
    allowance: int
    """Bytes that may come before more credit is given."""
    pieces: list[memoryview] = field(default_factory=list)
    received: int = 0
    discarded: bool = False
    """Nobody waits for it any more."""


@dataclass(slots=True, eq=False)
class Stream:
    incoming: Incoming | None = None
    outgoing: Outgoing | None = None
    held: int = 0
    """Bytes that count towards `MAX_OPEN_BYTES`."""
    cancelled: bool = False
