"""What the inside asks of the store of artifacts: bytes named by their sha256, streamed both ways."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol


class ArtifactStore(Protocol):
    async def write(self, chunks: AsyncIterator[bytes], limit: int) -> tuple[str, int]:
        """Takes a stream to its end and returns the artifact's id and size in bytes.

        Raises TooLarge beyond `limit` bytes, Unavailable if the disk fails. Whatever ends it early leaves nothing
        behind.
        """
        ...

    def read(self, artifact_id: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (exclusive); whoever stops before its end closes it. Raises NotFound."""
        ...

    def local(self, artifact_id: str) -> AbstractAsyncContextManager[Path]:
        """The artifact as a readable file, for as long as the context lasts. Raises NotFound."""
        ...

    def folder(self, artifacts: Mapping[str, str]) -> AbstractAsyncContextManager[Path]:
        """A folder with artifacts under these relative paths, for as long as the context lasts. Raises NotFound."""
        ...

    async def aged(self, seconds: float) -> list[str]:
        """The ids of artifacts whose bytes last came at least so long ago."""
        ...

    async def delete(self, artifact_id: str, aged: float = 0) -> None:
        """Forgets an artifact, unless its bytes came within so many seconds; one that is not there is no error."""
        ...
