"""Files to and from the network, piece by piece; the disk is read and written in threads."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tandem.protocol.errors import TransferFailed

ProgressCallback = Callable[[int, int | None], None]
"""Bytes moved so far, and in all if that is known."""

_CHUNK_BYTES = 2**18


async def read_file(path: Path, progress: ProgressCallback | None) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    with file:
        total = os.fstat(file.fileno()).st_size
        sent = 0
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            if progress is not None:
                progress(sent, total)


async def write_verified(
    chunks: AsyncIterator[bytes], artifact_id: str, target: Path, total: int | None, progress: ProgressCallback | None
) -> None:
    """Puts the bytes at `target` once they are whole and have the right digest, and nothing there before.

    Raises TransferFailed.
    """
    with _arriving(target) as file:
        digest, received = hashlib.sha256(), 0
        async for chunk in chunks:
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
            received += len(chunk)
            if progress is not None:
                progress(received, total)
        _check(artifact_id, f"sha256:{digest.hexdigest()}")


def inside(folder: Path, path: str) -> Path:
    """Where a file of a job's folder belongs. Raises TransferFailed for a path that leads out of it."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise TransferFailed(f"expected a path within the job's folder, got {path!r}")
    return folder.joinpath(*parts)


def holds(path: Path, artifact_id: str) -> bool:
    """Whether the file is the artifact."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == artifact_id


@contextmanager
def _arriving(target: Path) -> Iterator[IO[bytes]]:
    """A file beside the target that takes its place if all goes well, and is gone otherwise."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _check(expected: str, found: str) -> None:
    if found != expected:
        raise TransferFailed(f"expected bytes that are {expected}, got {found}; fetch it again")
