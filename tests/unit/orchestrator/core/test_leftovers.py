"""What of a job is let go of at its end."""

from dataclasses import replace

import pytest

from orchestrator.core.leftovers import leftovers, needed
from orchestrator.core.records import AttemptRecord, JobSnapshot
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import AttemptState, JobState, TaskState
from tests.conformance.store.samples import MEDIA, NODE, digest, inference, renditions, transcode
from tests.fixtures.protocol import transcode_work


def job(state: JobState, *, direct: bool) -> JobSnapshot:
    """Its source is artifact 7; a node made 8 and 7 of it, and another 9, which was not accepted."""
    new = transcode()
    name = "r8"
    work = transcode_work(MEDIA).model_copy(update={"source": digest(7), "direct": direct})
    work = work.model_copy(update={"video": (work.video[0].model_copy(update={"name": name}),)})
    task = replace(new.tasks[0], work=work, state=TaskState.DONE)
    attempts = tuple(
        AttemptRecord(
            AttemptRef(task=task.id, number=number),
            NODE,
            outcome,
            price=1,
            started_at=0,
            lease_until=0,
            output=renditions(*made),
        )
        for number, outcome, made in [(1, AttemptState.REJECTED, (9,)), (2, AttemptState.ACCEPTED, (8, 7))]
    )
    return JobSnapshot(replace(new.job, state=state), (task,), attempts)


def test_parts_are_let_go_of_but_not_what_was_given() -> None:
    assert leftovers(job(JobState.SUCCEEDED, direct=False)) == (digest(8),)
    assert leftovers(job(JobState.CANCELLED, direct=False)) == (digest(8),)


def test_what_was_asked_for_is_kept() -> None:
    assert leftovers(job(JobState.SUCCEEDED, direct=True)) == ()


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.VERIFYING, JobState.EXPORTING, JobState.FAILED])
def test_all_is_kept_that_a_retry_goes_on_from(state: JobState) -> None:
    assert leftovers(job(state, direct=False)) == ()


def test_a_retry_needs_what_was_given_and_what_was_accepted() -> None:
    assert needed(job(JobState.FAILED, direct=False)) == (digest(7), digest(8))


def test_an_inference_leaves_nothing() -> None:
    new = inference()
    assert leftovers(JobSnapshot(replace(new.job, state=JobState.SUCCEEDED), new.tasks, ())) == ()
