"""A process that takes an artifact that never ends, and says when part of it is on the disk."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.adapters.artifacts import open_artifacts


async def _endless() -> AsyncIterator[bytes]:
    for _ in range(8):
        yield bytes(2**20)
    sys.stdout.write("writing\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def main(folder: str) -> None:
    async with open_artifacts(Path(folder)) as artifacts:
        await artifacts.write(_endless(), limit=2**40)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
