"""What one side of a node session has to say, in the order in which it goes out.

Control messages go first, then all small messages of streams, then one piece of a large one; and again. So a tensor of
any size holds up neither a heartbeat nor a small request by more than one piece.
"""

import asyncio
from collections import deque
from typing import Protocol

from tandem.protocol.codec import Frame
from tandem.protocol.streams import Buffer, Streams


class Way(Protocol):
    """A connection that takes messages without waiting."""

    @property
    def full(self) -> bool:
        """Whether enough of what was said is still on its way out."""
        ...

    def send(self, *parts: Buffer | str) -> None:
        """A message, of bytes or of one text."""
        ...


class Outbox:
    """Unbounded: whoever fills it watches `len`. It is to hear by `ring` when the connection is not full any more."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._way: Way | None = None
        self._control: deque[Frame] = deque()
        self._rung = False
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Control messages that wait."""
        return len(self._control)

    def open(self, way: Way) -> None:
        """From now on there is a connection."""
        self._way = way
        self.ring()

    def put_nowait(self, frame: Frame) -> None:
        """A control message."""
        self._control.append(frame)
        self._empty.clear()
        self.ring()

    async def join(self) -> None:
        """Returns once every control message was handed to the connection."""
        await self._empty.wait()

    def close(self) -> None:
        """Control messages that are there are handed over, however full the connection is, and nothing else."""
        if self._way is not None and not self._closed:
            self._say_control(self._way)
        self._closed = True

    def ring(self) -> None:
        """There is something to say, or room for it: it goes out together with all else of this turn of the loop."""
        if not self._rung:
            self._rung = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Hands over what there is, while the connection is not full."""
        self._rung = False
        way, streams = self._way, self._streams
        while way is not None and not way.full and not self._closed:
            if self._control:
                self._say_control(way)
            small = streams.take()
            if small is not None:
                way.send(small)
            piece = streams.chunk()
            if piece is not None:
                way.send(*piece)
                self.ring()  # others have a turn before the next piece
                return
            if small is None:
                return

    def _say_control(self, way: Way) -> None:
        while self._control:
            way.send(self._control.popleft())
        self._empty.set()
