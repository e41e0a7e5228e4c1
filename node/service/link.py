"""Where services put what they have to say to the orchestrator, session or no session."""

from typing import Protocol

from tandem.protocol.codec import Envelope, Frame, encode
from tandem.protocol.messages import NodeMessage


class Outgoing(Protocol):
    """What an open session takes."""

    def put_nowait(self, frame: Frame, /) -> None: ...

    async def join(self) -> None:
        """Returns once all that was put is handed to the connection."""
        ...


class Link:
    """The way out. While no session is open, what is said is dropped: all that matters is said again at its start.

    Progress is throttled, and everything else answers the orchestrator: the session bounds the queue by ending if it
    asks on and does not read.
    """

    def __init__(self) -> None:
        self._queue: Outgoing | None = None

    @property
    def open(self) -> bool:
        return self._queue is not None

    def send(self, message: NodeMessage) -> None:
        """Queues a message without tensors."""
        self.send_frame(encode(Envelope(message)))

    def send_frame(self, frame: Frame) -> None:
        if self._queue is not None:
            self._queue.put_nowait(frame)

    async def flush(self) -> None:
        """Returns once all that was said is handed to the connection."""
        if self._queue is not None:
            await self._queue.join()

    def attach(self, queue: Outgoing) -> None:
        """A session is open: what is said goes to this queue."""
        self._queue = queue

    def detach(self, queue: Outgoing) -> None:
        """Its session is over; one that was never attached changes nothing."""
        if self._queue is queue:
            self._queue = None
