"""What the daemon asks of the way to the orchestrator."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tandem.outbox import Way
from tandem.websocket import Said


class Connection(Way, Protocol):
    """One connection. What is sent once it is gone is dropped; `receive` says so."""

    def listen(self, heard: Callable[[Said], bool], writable: Callable[[], None]) -> None:
        """`heard` gets each message that comes while `receive` waits: True, if that is all there is to do about it.

        `writable` is called when the connection is not full any more.
        """
        ...

    async def receive(self) -> Said:
        """The next message. Raises Unavailable once the connection is gone."""
        ...


class Dialler(Protocol):
    def dial(self) -> AbstractAsyncContextManager[Connection]:
        """Connects; raises Unavailable if nobody answers."""
        ...
