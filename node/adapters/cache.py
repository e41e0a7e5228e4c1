"""Artifacts on this machine's disk, by digest, bounded in bytes.

The least recently used goes first, and never one that is in use. Files appear under their digest only once complete
and checked; what a killed process left half-written is removed at the next start.
"""

import asyncio
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from node.ports.transfer import Shelf
from tandem.protocol.errors import NoCapacity, TooLarge, TransferFailed

Download = Callable[[Path], Awaitable[None]]
"""Writes the complete, checked artifact to the path, or raises."""

_ID = re.compile(r"sha256:([0-9a-f]{64})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial"


class _State(StrEnum):
    ABSENT = "absent"
    UNCHECKED = "unchecked"
    """Left by an earlier run of this node, which may have lost power: hashed before its first use."""
    READY = "ready"


@dataclass(slots=True)
class _Entry:
    state: _State = _State.ABSENT
    size: int = 0
    """Bytes held, or set aside for the download under way."""
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ArtifactCache:
    """Shelves of artifacts named by the hexadecimal digits of their sha256, at most `limit` bytes in all."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._entries: OrderedDict[Path, _Entry] = OrderedDict()

    def open(self) -> None:
        """Takes stock of the folder: half-written files go, and the oldest ones if there are more than fit."""
        files: list[Path] = []
        for shelf in Shelf:
            folder = self.folder(shelf)
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob("*" if shelf is Shelf.PIECES else f"*{_PARTIAL}"):
                partial.unlink()
            files += [path for path in folder.iterdir() if _DIGEST.fullmatch(path.name)]
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            self._entries[path] = _Entry(_State.UNCHECKED, path.stat().st_size)
        self._make_room(0)

    def folder(self, shelf: Shelf) -> Path:
        return self._folder / shelf

    def holds(self, shelf: Shelf, artifact_id: str) -> bool:
        """Whether it is there, whole, or about to be."""
        return self.folder(shelf) / _digest(artifact_id) in self._entries

    @property
    def size(self) -> int:
        """Bytes held and set aside."""
        return sum(entry.size for entry in self._entries.values())

    @asynccontextmanager
    async def use(self, shelf: Shelf, artifact_id: str, size: int, download: Download) -> AsyncIterator[Path]:
        """The artifact's file, downloaded if need be, and kept while the context lasts.

        Those who ask for the same one at the same time wait for one download. Raises TooLarge for more than the cache
        can ever hold, NoCapacity if all of it is in use, and what `download` raises.
        """
        path = self.folder(shelf) / _digest(artifact_id)
        entry = self._entries.setdefault(path, _Entry())
        entry.users += 1
        try:
            async with entry.lock:
                await self._ensure(path, entry, size, download)
            self._entries.move_to_end(path)
            os.utime(path)
            yield path
        finally:
            entry.users -= 1
            if not entry.users and entry.state is _State.ABSENT:
                del self._entries[path]

    async def _ensure(self, path: Path, entry: _Entry, size: int, download: Download) -> None:
        if entry.state is _State.UNCHECKED or not _exists(path):
            await self._check(path, entry)
        if entry.state is _State.ABSENT:
            await self._fill(path, entry, size, download)
        elif entry.size != size:
            raise TransferFailed(f"artifact sha256:{path.name}: expected {size} bytes as announced, got {entry.size}")

    async def _check(self, path: Path, entry: _Entry) -> None:
        if await asyncio.to_thread(_intact, path):
            entry.state = _State.READY
        else:
            entry.state, entry.size = _State.ABSENT, 0

    async def _fill(self, path: Path, entry: _Entry, size: int, download: Download) -> None:
        self._make_room(size)
        entry.size = size
        partial = path.with_name(path.name + _PARTIAL)
        try:
            await download(partial)
            partial.rename(path)
            entry.state = _State.READY
        finally:
            if entry.state is _State.ABSENT:
                entry.size = 0
                partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(f"expected an artifact of at most {self._limit} bytes, the whole cache; got {size}")
        excess = self.size + size - self._limit
        for path in [path for path, entry in self._entries.items() if not entry.users]:
            if excess <= 0:
                return
            excess -= self._entries.pop(path).size
            path.unlink(missing_ok=True)
        if excess > 0:
            raise NoCapacity(f"expected {size} free bytes in the cache, but what is in use leaves {size - excess}")


def _digest(artifact_id: str) -> str:
    match = _ID.fullmatch(artifact_id)
    if match is None:
        raise TransferFailed(f"expected an artifact id of sha256: and 64 hexadecimal digits, got {artifact_id[:80]!r}")
    return match[1]


def _exists(path: Path) -> bool:
    return path.exists()


def _intact(path: Path) -> bool:
    """Whether the file is what its name says; it is gone if not."""
    try:
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == path.name
    except OSError:
        intact = False
    if not intact:
        path.unlink(missing_ok=True)
    return intact
