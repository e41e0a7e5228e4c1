"""Packages, and the files of a job's folder."""

from dataclasses import replace

import pytest

from orchestrator.core.packaging import JobFile, Package, Segment, Track
from orchestrator.core.records import JobChanges, JobSnapshot
from orchestrator.ports.store import JobDecision, Store
from tandem.protocol.errors import Conflict, NotFound
from tandem.protocol.jobs import JobState
from tests.conformance.store.samples import begin, cancel, decided, deliver, digest, ref_of, renditions, transcode

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
