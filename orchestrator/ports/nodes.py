"""What services ask of a connected node's session."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tandem.protocol.errors import TandemError
from tandem.protocol.messages import OrchestratorMessage
from tandem.protocol.streams import Abandoned, Buffer, Responded
from tandem.protocol.tensors import Tensor

Reply = Callable[[Responded | Abandoned | TandemError], None]


class NodeLink(Protocol):
    """The way to one node, for as long as its session lives."""

    def send(self, message: OrchestratorMessage, tensors: tuple[Tensor, ...] = ()) -> None:
        """Queues a message. On a session that is gone it does nothing: all that matters is said again."""
        ...

    def request(self, head: bytes, body: Sequence[Buffer], reply: Reply) -> int:
        """Opens a stream: its number. `reply` is called once, never before this returns, also after `cancel`.

        Raises TooLarge, NoCapacity, AttemptLost if the session is gone; with the latter it also ends what is open.
        """
        ...

    def cancel(self, stream: int) -> None:
        """Tells the node at once that nobody waits for the answer any more. What comes of it is still replied."""
        ...

    def close(self, code: str, reason: str) -> None: ...
