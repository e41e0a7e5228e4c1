"""What services ask of the maker of signed URLs."""

from typing import Protocol

from tandem.protocol.ids import AttemptRef


class Urls(Protocol):
    """URLs by which a node, and nobody else, moves the artifacts of one attempt; good `until` then, by the clock."""

    def download(self, artifact_id: str, until: float) -> str: ...

    def upload(self, ref: AttemptRef, name: str, limit: int, until: float) -> str:
        """For one output of at most `limit` bytes."""
        ...
