"""Jobs whose results are written to URLs."""

from dataclasses import replace

from orchestrator.core.records import ExportRecord, Failure, JobChanges, JobSnapshot, Submission
from orchestrator.ports.store import Store
from tandem.protocol.jobs import JobState, OutputRequest, TranscodeRequest
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import accept, begin, decided, deliver, digest, ref_of, renditions, transcode
from tests.fixtures.clock import ManualClock


def exported(number: int = 1) -> Submission:
    submission = transcode(number)
    request = submission.job.request
    assert isinstance(request, TranscodeRequest)
    output = OutputRequest(upload={"r8": "https://bucket.example/r8"})
    return replace(submission, job=replace(submission.job, request=request.model_copy(update={"output": output})))


def export(snapshot: JobSnapshot, _now: float) -> JobChanges:
    return JobChanges(job=replace(snapshot.job, state=JobState.EXPORTING))


def succeed(snapshot: JobSnapshot, now: float) -> JobChanges:
    return JobChanges(job=replace(snapshot.job, state=JobState.SUCCEEDED, finished_at=now))


async def to_export(store: Store, submission: Submission) -> None:
    await store.add_artifact(digest(7), 100, "video/mp4")
    await store.submit(submission)
    ref = ref_of(submission)
    await decided(store, submission, begin(ref), deliver(ref, renditions(7)), export)


async def test_a_job_is_to_be_exported_from_the_state_on_until_it_leaves_it(open_again: Open) -> None:
    job = exported()
    record = ExportRecord(job.job.id, "local")
    async with open_again() as store:
        await to_export(store, job)
        assert await store.exports() == [record]
        later = replace(record, tries=2, not_before=7.5, written=("r8", "r9"), error="HTTP 503")
        await store.save_export(later)
    async with open_again() as store:
        assert await store.exports() == [later]
        await decided(store, job, succeed)
        assert await store.exports() == []
        assert await store.export(job.job.id) == later


async def test_a_job_without_urls_is_never_exported(store: Store) -> None:
    await store.add_artifact(digest(7), 100, "video/mp4")
    job = transcode(1)
    await store.submit(job)
    ref = ref_of(job)
    await decided(store, job, begin(ref), deliver(ref, renditions(7)), accept(ref))
    assert await store.exports() == []
    assert await store.export(job.job.id) is None


async def test_which_results_are_written_is_forgotten_with_time(store: Store, clock: ManualClock) -> None:
    job, failed = exported(1), exported(2)
    for each in (job, failed):
        await to_export(store, each)
    assert await store.prune(0) == 0, "they go on"
    await decided(store, job, succeed)
    await decided(store, failed, fail_job)
    clock.advance(60)
    assert await store.prune(61) == 0
    assert await store.prune(60) == 1
    assert await store.prune(60) == 0
    assert await store.export(job.job.id) is None
    assert await store.export(failed.job.id) is not None, "a retry goes on from it"


def fail_job(snapshot: JobSnapshot, now: float) -> JobChanges:
    failure = Failure("url_refused", "HTTP 403", retryable=False)
    return JobChanges(job=replace(snapshot.job, state=JobState.FAILED, failure=failure, finished_at=now))
