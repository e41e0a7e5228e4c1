"""What the daemon asks of the way to the orchestrator."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tandem.protocol.codec import Frame


class Connection(Protocol):
    """One connection; both calls raise Unavailable once it is gone."""

    async def send(self, frame: Frame) -> None: ...

    async def receive(self) -> Frame: ...


class Dialler(Protocol):
    def dial(self) -> AbstractAsyncContextManager[Connection]:
        """Connects; raises Unavailable if nobody answers."""
        ...
