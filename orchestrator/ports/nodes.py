"""What services ask of a connected node's session."""

from typing import Protocol

from tandem.protocol.messages import OrchestratorMessage
from tandem.protocol.tensors import Tensor


class NodeLink(Protocol):
    """The way to one node, for as long as its session lives."""

    def send(self, message: OrchestratorMessage, tensors: tuple[Tensor, ...] = ()) -> None:
        """Queues a message. On a session that is gone it does nothing: all that matters is said again."""
        ...

    def close(self, code: str, reason: str) -> None: ...
