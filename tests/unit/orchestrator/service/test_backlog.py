"""The backlog under looks at the store that take their time."""

import asyncio
from collections.abc import Collection

from orchestrator.core.backlog import BacklogPolicy
from orchestrator.core.records import PreparationRecord
from orchestrator.service.backlog import Backlog
from orchestrator.service.events import JobEvents
from tandem.waiting import Bell
from tests.fixtures.clock import ManualClock

RECORD = PreparationRecord("job", "ann")


async def test_what_was_read_before_the_work_ended_does_not_begin_it_again(clock: ManualClock) -> None:
    bell, done, looked = Bell(clock), asyncio.Event(), asyncio.Queue[None]()
    looks, worked = 0, 0

    async def now() -> float:
        return clock.now()

    async def load(limit: int, without: Collection[str]) -> list[PreparationRecord]:
        nonlocal looks
        looks += 1
        found = [RECORD] if looks <= 2 else []
        if looks == 2:  # the work ends between the read and its answer
            done.set()
            while backlog._running:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        looked.put_nowait(None)
        return found

    async def work(_record: PreparationRecord) -> None:
        nonlocal worked
        worked += 1
        bell.ring()
        await done.wait()

    backlog = Backlog(load, work, now, JobEvents(), bell, BacklogPolicy())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(backlog.run())
        for _ in range(3):
            await looked.get()
        running.cancel()
    assert worked == 1


async def test_one_owner_with_many_jobs_does_not_hide_those_of_others(clock: ManualClock) -> None:
    records = [*(PreparationRecord(f"a{number:03}", "ann") for number in range(100)), PreparationRecord("b", "bob")]
    policy, begun, looks = BacklogPolicy(concurrency=8, per_owner=4), list[str](), list[int]()
    reached = asyncio.Event()

    async def now() -> float:
        return clock.now()

    async def load(limit: int, without: Collection[str]) -> list[PreparationRecord]:
        looks.append(limit)
        return [record for record in records if record.owner not in without][:limit]

    async def work(record: PreparationRecord) -> None:
        begun.append(record.job)
        if record.owner == "bob":
            reached.set()
        await asyncio.Event().wait()

    backlog = Backlog(load, work, now, JobEvents(), Bell(clock), policy)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(backlog.run())
        await reached.wait()
        running.cancel()
    assert begun == ["a000", "a001", "a002", "a003", "b"]
    assert set(looks) == {16}
