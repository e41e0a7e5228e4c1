"""What services ask of the maker of signed URLs."""

from typing import Protocol

from tandem.protocol.ids import AttemptRef


class Urls(Protocol):
    """Short-lived URLs by which a node, and nobody else, moves the artifacts of one attempt."""

    def download(self, artifact_id: str) -> str: ...

    def upload(self, ref: AttemptRef, name: str, limit: int) -> str:
        """For one output of at most `limit` bytes."""
        ...
