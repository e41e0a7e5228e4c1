"""What the daemon asks of the artifact transfer."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tandem.protocol.jobs import ByteRange


class Shelf(StrEnum):
    """Kept apart: the process that runs models reads all of theirs, and is to find nothing else there."""

    SOURCES = "sources"
    PIECES = "pieces"
    """Parts of sources, of no use to a later process."""
    MODELS = "models"


class Transfer(Protocol):
    def fetch(self, shelf: Shelf, artifact_id: str, size: int, url: str) -> AbstractAsyncContextManager[Path]:
        """The artifact as a local file, from the cache or downloaded and checked; kept while the context lasts.

        Raises TransferFailed for a broken transfer or another digest or size, TooLarge for more than the cache holds.
        """
        ...

    def fetch_ranges(
        self, artifact_id: str, size: int, ranges: Sequence[ByteRange], url: str
    ) -> AbstractAsyncContextManager[Path]:
        """A source of which these ranges are there and the rest reads as zeros; all of it if it is here anyhow.

        What comes is not checked against the digest, which only the whole has. Raises what `fetch` does.
        """
        ...

    async def upload(self, path: Path, url: str) -> tuple[str, int]:
        """Streams a file to a signed URL: its artifact id and size in bytes. Raises TransferFailed."""
        ...
