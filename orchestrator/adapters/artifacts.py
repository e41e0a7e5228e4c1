"""Artifacts on a local disk: one file each, named by its digest.

    FOLDER/ab/abcdef…   the artifact sha256:abcdef…
    FOLDER/tmp/…        being written, or lent out; whatever lies there at the start was left by a crash

A file gets its name by an atomic rename after all its bytes are on the disk, so that a name never stands for a part.
File work is done in threads, a mebibyte at a time.
"""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeVar

from tandem.protocol.errors import ConfigurationError, NotFound, TooLarge, Unavailable

_PIECE = 2**20
_ID = re.compile(r"sha256:([0-9a-f]{64})")
_TEMPORARY = "tmp"

Done = TypeVar("Done")


@asynccontextmanager
async def open_artifacts(folder: Path) -> AsyncIterator["DiskArtifacts"]:
    """The artifacts in a folder that no other process writes to; it is made if it is not there.

    Raises ConfigurationError.
    """
    try:
        await asyncio.to_thread(_prepare, folder)
    except OSError as error:
        raise ConfigurationError(f"expected a folder for artifacts that can be written, got {error}") from error
    yield DiskArtifacts(folder)


class DiskArtifacts:
    """Implements `orchestrator.ports.artifacts.ArtifactStore`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._placing = Lock()
        """Held where a name is given or taken away, so that bytes that come again are never deleted as old."""

    async def write(self, chunks: AsyncIterator[bytes], limit: int) -> tuple[str, int]:
        upload = _Upload(self._folder, limit, self._placing)
        try:
            async for chunk in chunks:
                if upload.take(chunk):
                    await _on_disk(upload.flush)
            return await _on_disk(upload.finish)
        finally:
            await asyncio.shield(asyncio.to_thread(upload.close))

    async def read(self, artifact_id: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        with _open(self._path(artifact_id), start) as file:
            left = sys.maxsize if end is None else end - start
            while left > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE, left))):
                left -= len(piece)
                yield piece

    @asynccontextmanager
    async def local(self, artifact_id: str) -> AsyncIterator[Path]:
        path = self._path(artifact_id)
        # A second name keeps the file for the borrower, whatever happens to the first one.
        lent = _temporary(self._folder)
        _link(path, lent)
        try:
            yield lent
        finally:
            lent.unlink()

    @asynccontextmanager
    async def folder(self, artifacts: Mapping[str, str]) -> AsyncIterator[Path]:
        places = {name: self._path(artifact) for name, artifact in artifacts.items()}
        lent = _temporary(self._folder)
        try:
            await asyncio.to_thread(_lay_out, lent, places)
            yield lent
        finally:
            await asyncio.to_thread(shutil.rmtree, lent, ignore_errors=True)

    async def aged(self, seconds: float) -> list[str]:
        return await asyncio.to_thread(_aged, self._folder, seconds)

    async def delete(self, artifact_id: str, aged: float = 0) -> None:
        await asyncio.to_thread(self._delete, self._path(artifact_id), aged)

    def _delete(self, path: Path, aged: float) -> None:
        with self._placing:
            if path.exists() and _age(path) >= aged:
                path.unlink()

    def _path(self, artifact_id: str) -> Path:
        match = _ID.fullmatch(artifact_id)
        if match is None:
            raise NotFound(f"expected sha256: and 64 hexadecimal digits, got {artifact_id[:80]!r}")
        return _path(self._folder, match[1])


class _Upload:
    """An artifact on its way in. `flush`, `finish` and `close` block; `close` may come while another still runs."""

    def __init__(self, folder: Path, limit: int, placing: Lock) -> None:
        self._folder = folder
        self._limit = limit
        self._placing = placing
        self._temporary = _temporary(folder)
        self._file: BinaryIO | None = None
        self._closed = False
        self._digest = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._size = 0
        self._busy = Lock()

    def take(self, chunk: bytes) -> bool:
        """Keeps the chunk; True if it is time to flush. Raises TooLarge."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise TooLarge(f"expected at most {self._limit} bytes, got more: send a smaller file")
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        return self._pending_bytes >= _PIECE

    def flush(self) -> None:
        with self._busy:
            self._write()

    def finish(self) -> tuple[str, int]:
        """Puts the artifact in its place, over an equal one that may be there; its id and size."""
        with self._busy:
            file = self._write()
            file.flush()
            os.fsync(file.fileno())
            digest = self._digest.hexdigest()
            path = _path(self._folder, digest)
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                _sync(self._folder)
            with self._placing:
                self._temporary.replace(path)
            _sync(path.parent)
            return f"sha256:{digest}", self._size

    def close(self) -> None:
        with self._busy:
            self._closed = True
            if self._file is not None:
                with suppress(OSError):  # what it still holds may not fit on the disk
                    self._file.close()
                self._temporary.unlink(missing_ok=True)

    def _write(self) -> BinaryIO:
        if self._closed:  # by a caller that was cancelled before this thread came to run
            raise ValueError("expected an upload that goes on, got one that was given up")
        if self._file is None:
            self._file = self._temporary.open("xb")
        piece = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._digest.update(piece)
        self._file.write(piece)
        return self._file


async def _on_disk(work: Callable[[], Done]) -> Done:
    """In a thread. Raises Unavailable for what the disk does not do, which may pass."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise Unavailable(f"expected to store an artifact, got {error.strerror}; free some disk space") from error


def _temporary(folder: Path) -> Path:
    return folder / _TEMPORARY / secrets.token_hex(16)


def _path(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / digest


def _age(path: Path) -> float:
    """Seconds since the bytes were written, by the file system's clock."""
    return time.time() - path.stat().st_mtime


def _aged(folder: Path, seconds: float) -> list[str]:
    """What else lies there, such as the `lost+found` of a volume of its own, is nobody's artifact."""
    files = folder.glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64)
    return sorted(f"sha256:{file.name}" for file in files if _age(file) >= seconds)


def _prepare(folder: Path) -> None:
    shutil.rmtree(folder / _TEMPORARY, ignore_errors=True)
    (folder / _TEMPORARY).mkdir(parents=True)


def _open(path: Path, start: int) -> BinaryIO:
    """Without a thread, which would go on to open it for somebody who has been cancelled."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise _not_found(path) from error
    file.seek(start)
    return file


def _link(path: Path, lent: Path) -> None:
    """Without a thread: it moves no bytes."""
    try:
        lent.hardlink_to(path)
    except FileNotFoundError as error:
        raise _not_found(path) from error


def _lay_out(folder: Path, places: Mapping[str, Path]) -> None:
    folder.mkdir()
    for name, path in places.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(path, target)


def _not_found(path: Path) -> NotFound:
    return NotFound(f"expected an artifact that is stored, got sha256:{path.name}: upload it again")


def _sync(folder: Path) -> None:
    """A new name is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
