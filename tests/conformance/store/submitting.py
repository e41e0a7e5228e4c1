"""A process that submits jobs until it is killed, and prints the id of each that it was told of."""

import asyncio
import itertools
import sys

from orchestrator.adapters.store import open_store
from tandem.clock import SystemClock
from tests.conformance.store.samples import begin, inference, ref_of


async def main(url: str) -> None:
    numbers = itertools.count()
    async with open_store(url, SystemClock()) as store, asyncio.TaskGroup() as group:

        async def submit() -> None:
            for number in numbers:
                job = inference(number, tasks=3, webhook="https://hook.example/")
                await store.submit(job)
                await store.decide([job.job.id], begin(ref_of(job)))
                sys.stdout.write(f"{job.job.id}\n")
                sys.stdout.flush()

        for _ in range(8):
            group.create_task(submit())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
