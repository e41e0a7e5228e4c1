"""What the daemon asks of the artifact transfer."""

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Shelf(StrEnum):
    """Kept apart: the process that runs models reads all of theirs, and is to find nothing else there."""

    SOURCES = "sources"
    MODELS = "models"


class Transfer(Protocol):
    def fetch(self, shelf: Shelf, artifact_id: str, size: int, url: str) -> AbstractAsyncContextManager[Path]:
        """The artifact as a local file, from the cache or downloaded and checked; kept while the context lasts.

        Raises TransferFailed for a broken transfer or another digest or size, TooLarge for more than the cache holds.
        """
        ...

    async def upload(self, path: Path, url: str) -> tuple[str, int]:
        """Streams a file to a signed URL: its artifact id and size in bytes. Raises TransferFailed."""
        ...
