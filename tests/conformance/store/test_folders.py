"""Packages, and the files of a job's folder."""

from dataclasses import replace

import pytest

from orchestrator.core.packaging import JobFile, Package, Segment, Track
from orchestrator.core.records import JobChanges, JobSnapshot
from orchestrator.ports.store import JobDecision, Store
from tandem.protocol.errors import Conflict, NotFound
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import JobState
from tests.conformance.store.samples import (
    accept,
    begin,
    cancel,
    decided,
    deliver,
    digest,
    ref_of,
    renditions,
    transcode,
)
from tests.fixtures.clock import ManualClock

TRACK = Track(codec="avc1.64001f", timescale=90_000, width=640, height=360)
JOB = transcode()
PACKAGE = Package(task=JOB.tasks[0].id, name="r8", track=TRACK, segments=(Segment(start=0, duration=90_000, size=10),))


def file(path: str, number: int) -> JobFile:
    return JobFile(path=path, artifact=digest(number), media_type="video/mp4", size=10)


@pytest.fixture
async def job(store: Store) -> str:
    for number in (7, 8, 9):
        await store.add_artifact(digest(number), 10, "application/octet-stream")
    return await store.submit(JOB)


async def test_a_package_comes_with_its_files(store: Store, job: str) -> None:
    assert await store.packages(job) == []
    await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8), file("r8/init.mp4", 9)])
    assert await store.packages(job) == [PACKAGE]
    assert await store.files(job) == [file("r8/0.m4s", 8), file("r8/init.mp4", 9)]
    assert await store.file(job, "r8/0.m4s") == file("r8/0.m4s", 8)
    assert await store.file(job, "r8/1.m4s") is None
    assert await store.delete_orphans(0) == []


async def test_the_same_once_more_changes_nothing(store: Store, job: str) -> None:
    for _ in range(2):
        await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    assert await store.packages(job) == [PACKAGE]
    assert await store.files(job) == [file("r8/0.m4s", 8)]


async def test_what_is_put_where_something_is_takes_its_place(store: Store, job: str) -> None:
    await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    await store.add_packages(job, [], [file("r8/0.m4s", 9)])
    assert await store.files(job) == [file("r8/0.m4s", 9)]


async def test_nothing_is_put_into_the_folder_of_a_job_that_is_over(store: Store, job: str) -> None:
    await store.decide([job], cancel)
    with pytest.raises(Conflict, match="cancelled"):
        await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    assert (await store.packages(job), await store.files(job)) == ([], [])


async def test_files_need_their_artifacts(store: Store, job: str) -> None:
    with pytest.raises(NotFound, match=digest(5)):
        await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 5)])
    assert (await store.packages(job), await store.files(job)) == ([], [])


async def test_the_end_of_a_job_is_written_with_its_last_files(store: Store, job: str) -> None:
    await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    await decided(store, JOB, begin(ref_of(JOB)), deliver(ref_of(JOB), renditions(8)))

    def end(number: int) -> JobDecision:
        def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
            over = replace(snapshot.job, state=JobState.SUCCEEDED, finished_at=now)
            return JobChanges(job=over, files=(file("master.m3u8", number),))

        return decide

    with pytest.raises(NotFound):
        await store.decide([job], end(5))
    assert (await store.job(job)).job.state is not JobState.SUCCEEDED
    await store.decide([job], end(9))
    assert [each.path for each in await store.files(job)] == ["master.m3u8", "r8/0.m4s"]
    assert (await store.job(job)).job.state is JobState.SUCCEEDED


def over(*released: int) -> JobDecision:
    def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
        job = replace(snapshot.job, state=JobState.SUCCEEDED, finished_at=now)
        return JobChanges(job=job, released=tuple(map(digest, released)))

    return decide


async def test_what_a_job_let_go_of_is_forgotten_but_for_what_is_in_its_folder(
    store: Store, job: str, clock: ManualClock
) -> None:
    await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    ref = ref_of(JOB)
    await decided(store, JOB, begin(ref), deliver(ref, renditions(8, 9)), accepted(ref), over(8, 9))
    clock.advance(59)
    assert await store.delete_orphans(1000, 60) == []
    clock.advance(1)
    assert await store.delete_orphans(1000, 60) == [digest(9)]
    assert [each.artifact for each in await store.files(job)] == [digest(8)]


async def test_what_somebody_stored_again_or_another_job_needs_is_not_forgotten_with_it(
    store: Store, job: str, clock: ManualClock
) -> None:
    clock.advance(5)
    await store.add_artifact(digest(8), 10, "video/mp4")
    other = transcode(2)
    await store.submit(replace(other, artifacts=(digest(7), digest(9))))
    ref = ref_of(JOB)
    await decided(store, JOB, begin(ref), deliver(ref, renditions(8, 9)), accepted(ref), over(8, 9))
    clock.advance(999)
    assert await store.delete_orphans(1000, 60) == []
    clock.advance(1)
    assert await store.delete_orphans(1000, 60) == [digest(8)]


def accepted(ref: AttemptRef) -> JobDecision:
    """An attempt, and not the job, is done."""

    def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
        changes = accept(ref)(snapshot, now)
        return replace(changes, job=replace(snapshot.job, state=JobState.VERIFYING))

    return decide


async def test_long_after_its_end_a_job_lets_go_of_its_files(store: Store, job: str, clock: ManualClock) -> None:
    await store.add_packages(job, [PACKAGE], [file("r8/0.m4s", 8)])
    other = transcode(2)
    await store.submit(other)
    await decided(store, JOB, cancel)
    clock.advance(60)
    assert await store.let_go(61) == 0
    assert await store.files(job)
    assert await store.let_go(60) == 1
    assert await store.let_go(60) == 0
    assert (await store.files(job), await store.packages(job)) == ([], [])
    assert await store.delete_orphans(60) == [digest(8), digest(9)]
    assert await store.artifact(digest(7)), "the other job has it too"


async def test_what_a_decision_is_to_keep_is_kept_or_nothing_is_written(store: Store, job: str) -> None:
    await store.add_artifact(digest(20), 1, "video/mp4")

    def keep(*numbers: int) -> JobDecision:
        return lambda snapshot, _now: JobChanges(job=snapshot.job, artifacts=tuple(map(digest, numbers)))

    await decided(store, JOB, keep(20))
    with pytest.raises(NotFound, match=digest(21)):
        await decided(store, JOB, keep(9, 21))
    assert await store.delete_orphans(0) == [digest(8), digest(9)]
