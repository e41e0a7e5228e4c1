"""Jobs that are prepared before they are queued."""

from dataclasses import replace

import pytest

from orchestrator.core.records import JobChanges, JobSnapshot, PreparationRecord
from orchestrator.ports.store import Store
from tandem.protocol.errors import NotFound
from tandem.protocol.jobs import JobState
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import LOST, cancel, decided, digest, job_number, transcode, unprepared


def queue(snapshot: JobSnapshot, _now: float) -> JobChanges:
    """As if it had been a job with an artifact."""
    planned = tuple(replace(task, id=f"{snapshot.job.id}.0") for task in transcode().tasks)
    job = replace(snapshot.job, state=JobState.QUEUED, price=5)
    return JobChanges(job=job, planned=planned, artifacts=(digest(7),))


def fail(snapshot: JobSnapshot, now: float) -> JobChanges:
    return JobChanges(job=replace(snapshot.job, state=JobState.FAILED, failure=LOST, finished_at=now))


async def test_a_job_is_prepared_also_after_a_restart(open_again: Open) -> None:
    asked = unprepared(1)
    async with open_again() as store:
        await store.submit(unprepared(2))
        assert await store.submit(asked) == asked.job.id
    async with open_again() as store:
        assert await store.job(asked.job.id) == JobSnapshot(asked.job, (), ())
        assert await store.preparations() == [PreparationRecord(job_number(n), "local") for n in (1, 2)]
        assert await store.ready(10) == []


async def test_how_far_it_is_stays_and_its_source_is_kept(open_again: Open) -> None:
    record = PreparationRecord(job_number(1), "local", tries=2, not_before=77.5, source=digest(7))
    async with open_again() as store:
        await store.submit(unprepared(1))
        with pytest.raises(NotFound):
            await store.save_preparation(record)
        await store.add_artifact(digest(7), 100, "video/mp4")
        await store.save_preparation(record)
        await store.save_preparation(record)
    async with open_again() as store:
        assert await store.preparations() == [record]
        assert await store.delete_orphans(0) == []


async def test_it_is_queued_with_its_tasks_and_its_price(store: Store) -> None:
    await store.add_artifact(digest(7), 100, "video/mp4")
    await store.submit(unprepared(1))
    await decided(store, unprepared(1), queue)
    snapshot = await store.job(job_number(1))
    assert (snapshot.job.state, snapshot.job.price) == (JobState.QUEUED, 5)
    assert [ready.task for ready in await store.ready(10)] == list(snapshot.tasks)
    assert await store.preparations() == []
    assert await store.delete_orphans(0) == []


async def test_without_its_artifact_nothing_of_it_is_written(store: Store) -> None:
    await store.submit(unprepared(1))
    with pytest.raises(NotFound):
        await decided(store, unprepared(1), queue)
    assert (await store.job(job_number(1))).job == unprepared(1).job
    assert len(await store.preparations()) == 1


@pytest.mark.parametrize("end", [cancel, fail])
async def test_one_that_ends_is_not_prepared_any_more(store: Store, end: object) -> None:
    await store.submit(unprepared(1))
    await store.add_artifact(digest(7), 100, "video/mp4")
    await store.save_preparation(PreparationRecord(job_number(1), "local", source=digest(7)))
    await decided(store, unprepared(1), end)  # type: ignore[arg-type]
    assert await store.preparations() == []
    assert await store.delete_orphans(0) == [digest(7)], "nobody needs it"
    await store.save_preparation(PreparationRecord(job_number(1), "local", tries=1))
    assert await store.preparations() == []


async def test_those_to_be_tried_first_come_first_and_of_some_owners_none(store: Store) -> None:
    for number in (1, 2, 3):
        await store.submit(unprepared(number))
    other = unprepared(4)
    await store.submit(replace(other, job=replace(other.job, owner="bob")))
    await store.save_preparation(PreparationRecord(job_number(1), "local", tries=1, not_before=9))
    assert [each.job for each in await store.preparations(3)] == [job_number(n) for n in (2, 3, 4)]
    assert [each.job for each in await store.preparations(9)] == [job_number(n) for n in (2, 3, 4, 1)]
    assert [each.job for each in await store.preparations(9, ["local"])] == [job_number(4)]
