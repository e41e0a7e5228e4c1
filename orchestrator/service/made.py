"""Files that a child process made, on their way into the store of artifacts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

_PIECE = 2**20


def is_own(path: Path) -> bool:
    """Whether it is a file, and no link, by which this process would read what the child could not."""
    return path.resolve() == path and path.is_file()


async def pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
