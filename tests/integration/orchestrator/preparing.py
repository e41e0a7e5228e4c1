"""A process that prepares the jobs of a store until it is killed, and prints each that it has prepared."""

import asyncio
import sys
from pathlib import Path

from tests.fixtures.api import run_api


async def main(folder: Path) -> None:
    async with run_api(folder) as api:
        print("ready", flush=True)  # noqa: T201
        print(await api.next_job(), flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
