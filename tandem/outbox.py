"""What one side of a node session has to say, in the order in which it goes out.

Control messages go first, then all small messages of streams, then one piece of a large one; and again. So a tensor of
any size holds up neither a heartbeat nor a small request by more than one piece.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from tandem.protocol.codec import Frame
from tandem.protocol.streams import Streams


class Outbox:
    """Unbounded: whoever fills it watches `len`."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._control: deque[Frame] = deque()
        self._wakes: asyncio.Future[None] | None = None
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Control messages that wait."""
        return len(self._control)

    def put_nowait(self, frame: Frame) -> None:
        """A control message."""
        self._control.append(frame)
        self._empty.clear()
        self.ring()

    def ring(self) -> None:
        """The streams have something to say."""
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)

    async def join(self) -> None:
        """Returns once every control message was handed to the connection."""
        await self._empty.wait()

    def close(self) -> None:
        """Control messages that are there still go out, and nothing else."""
        self._closed = True
        self.ring()

    async def write(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        """Hands all to `send`, which waits while the connection is full. Until closed, or `send` raises."""
        loop, streams, control = asyncio.get_running_loop(), self._streams, self._control
        while True:
            while control:
                await send(control.popleft())
            self._empty.set()
            if self._closed:
                return
            small = streams.take()
            if small is not None:
                await send(small)
            piece = streams.chunk()
            if piece is not None:
                await send(piece)
            elif small is None and not control:
                self._wakes = loop.create_future()
                await self._wakes
