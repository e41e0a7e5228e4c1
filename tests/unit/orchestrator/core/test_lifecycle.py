from dataclasses import replace

import pytest

from orchestrator.core.blame import RetryPolicy, failed_on
from orchestrator.core.completion import is_assembling
from orchestrator.core.lifecycle import (
    Abandoned,
    Accepted,
    Assembled,
    Assigned,
    Broken,
    Cancelled,
    Event,
    Expired,
    Exported,
    Finished,
    Prepared,
    Rejected,
    Shown,
    Unassembled,
    Unexported,
    Unprepared,
    changed,
    decide,
    part_of_price,
)
from orchestrator.core.records import Failure, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.errors import Conflict, ExecutionFailed, JobFailed, StaleAttempt
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import ArtifactInput, AttemptState, JobState, OutputRequest, TaskState, TranscodeRequest
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.fixtures.protocol import JOB, REF, SHA, TASK, tensor, transcode_work

A, B, C = "0xA", "0xB", "0xC"
NOW, LEASE = 1000.0, 30.0
POLICY = RetryPolicy()
OUTPUT = TranscodeOutput(files=(FileResult(name="720p", artifact=SHA, size=1),))
CRASH = Failure("child_crashed", "signal 9", retryable=True)
BAD_INPUT = Failure(ExecutionFailed.code, "no such stream", retryable=False)
DECLINE = Failure("no_capacity", "full", retryable=True)


def new_job(tasks: int = 1) -> JobSnapshot:
    request = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SHA))
    job = JobRecord(JOB, "local", request, JobState.QUEUED, price=100, created_at=NOW)
    work = transcode_work()
    return JobSnapshot(job, tuple(TaskRecord(task_id(JOB, i), work, TaskState.WAITING, 100) for i in range(tasks)), ())


def after(snapshot: JobSnapshot, *events: Event, now: float = NOW) -> JobSnapshot:
    for event in events:
        snapshot = changed(snapshot, decide(snapshot, event, now, POLICY))
    return snapshot


def ref(number: int, index: int = 0) -> AttemptRef:
    return AttemptRef(task=task_id(JOB, index), number=number)


def assigned(node: str = A, index: int = 0) -> Assigned:
    return Assigned(task_id(JOB, index), node, 10, LEASE)


def test_the_way_of_a_good_job() -> None:
    job = new_job()
    steps: list[tuple[Event, JobState]] = [
        (assigned(), JobState.RUNNING),
        (Finished(REF, A, OUTPUT, (tensor("y", 1.0),)), JobState.VERIFYING),
        (Accepted(REF), JobState.SUCCEEDED),
    ]
    for event, state in steps:
        job = after(job, event)
        assert job.job.state is state
    (attempt,) = job.attempts
    assert (attempt.state, attempt.price, attempt.output) == (AttemptState.ACCEPTED, 10, OUTPUT)
    assert attempt.tensors == (tensor("y", 1.0),)
    assert job.job.finished_at == attempt.finished_at == NOW


def test_money_is_earned_by_acceptance_alone() -> None:
    job = new_job()
    events: list[Event] = [assigned(), Finished(REF, A, OUTPUT), Accepted(REF)]
    earned = []
    for event in events:
        changes = decide(job, event, NOW, POLICY)
        earned.append([attempt.ref for attempt in changes.earned])
        job = changed(job, changes)
    assert earned == [[], [], [REF]]


@pytest.mark.parametrize(
    "event",
    [
        Finished(REF, B, OUTPUT),
        Broken(REF, B, CRASH),
        Finished(ref(2), A, OUTPUT),
        Finished(ref(1, index=7), A, OUTPUT),
        Accepted(REF),
        Rejected(REF, CRASH),
        Expired(REF),
        Assigned(TASK, B, 10, LEASE),
        Assigned(f"{JOB}.7", B, 10, LEASE),
    ],
    ids=repr,
)
def test_what_does_not_concern_the_running_attempt_is_stale(event: Event) -> None:
    running = after(new_job(), assigned())
    with pytest.raises(StaleAttempt):
        decide(running, event, NOW, POLICY)


@pytest.mark.parametrize("event", [Finished(REF, A, OUTPUT), Broken(REF, A, CRASH), Expired(REF), Abandoned(REF)])
def test_a_result_stands_once_given(event: Event) -> None:
    verifying = after(new_job(), assigned(), Finished(REF, A, OUTPUT))
    with pytest.raises(StaleAttempt):
        decide(verifying, event, NOW + 10 * LEASE, POLICY)


def test_a_zombie_cannot_finish_the_next_attempt() -> None:
    again = after(after(new_job(), assigned()), Expired(REF), assigned(), now=NOW + LEASE)
    with pytest.raises(StaleAttempt, match="got expired"):
        decide(again, Finished(REF, A, OUTPUT), NOW, POLICY)
    assert after(again, Finished(ref(2), A, OUTPUT)).job.state is JobState.VERIFYING


def test_a_lease_that_was_extended_meanwhile_has_not_run_out() -> None:
    running = after(new_job(), assigned())
    with pytest.raises(StaleAttempt, match="extended"):
        decide(running, Expired(REF), NOW + LEASE - 0.1, POLICY)
    lost = after(running, Expired(REF), now=NOW + LEASE)
    assert lost.attempts[0].state is AttemptState.EXPIRED
    assert lost.job.state is JobState.QUEUED


def test_a_node_that_came_back_without_it_loses_it_at_once() -> None:
    lost = after(new_job(), assigned(), Abandoned(REF))
    assert lost.attempts[0].state is AttemptState.EXPIRED
    assert lost.tasks[0].state is TaskState.WAITING


def test_attempts_back_off() -> None:
    job, waits = new_job(), []
    for number in range(1, 10):
        job = after(job, assigned(), Broken(ref(number), A, DECLINE))
        waits.append(job.tasks[0].not_before - NOW)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_three_nodes_fail_a_job_with_their_evidence() -> None:
    job = new_job(tasks=3)
    job = after(job, assigned(A, 1), Finished(ref(1, 1), A, OUTPUT), assigned(B, 2))
    for number, node in enumerate((A, A, B), 1):
        job = after(job, assigned(node), Broken(ref(number), node, CRASH))
    assert job.job.state is JobState.RUNNING
    job = after(job, assigned(C), Broken(ref(4), C, CRASH))
    assert job.job.state is JobState.FAILED
    assert job.job.failure is not None
    assert (job.job.failure.code, job.job.failure.retryable) == (JobFailed.code, False)
    assert all(f"on {node}: child_crashed: signal 9" in job.job.failure.detail for node in (A, B, C))
    assert [task.state for task in job.tasks] == [TaskState.FAILED, TaskState.CANCELLED, TaskState.CANCELLED]
    assert [job.attempts_of(task_id(JOB, i))[0].state for i in (1, 2)] == [AttemptState.CANCELLED] * 2


def test_handing_back_is_no_failure_but_is_remembered() -> None:
    job = new_job()
    for number, node in enumerate((A, B, C), 1):
        job = after(job, assigned(node), Broken(ref(number), node, DECLINE))
    assert job.job.state is JobState.QUEUED
    assert {attempt.state for attempt in job.attempts} == {AttemptState.RETURNED}
    assert failed_on(job.attempts) == (A, B, C)
    again = after(job, assigned(A), Broken(ref(4), A, CRASH))
    assert failed_on(tuple(reversed(again.attempts))) == (B, C, A)


def test_nobody_hands_back_for_ever() -> None:
    job = new_job()
    for number in range(1, POLICY.max_attempts + 1):
        assert job.job.state is JobState.QUEUED
        job = after(job, assigned(), Broken(ref(number), A, DECLINE))
    assert job.job.state is JobState.FAILED


def test_the_input_is_at_fault_if_two_say_so() -> None:
    once = after(new_job(), assigned(A), Broken(REF, A, BAD_INPUT))
    assert once.job.state is JobState.QUEUED
    twice = after(once, assigned(B), Broken(ref(2), B, BAD_INPUT))
    assert twice.job.state is JobState.FAILED
    assert twice.job.failure == BAD_INPUT


def test_a_rejected_result_leaves_no_tensors_and_earns_nothing() -> None:
    verifying = after(new_job(), assigned(), Finished(REF, A, OUTPUT, (tensor("y", 1.0),)))
    changes = decide(verifying, Rejected(REF, CRASH), NOW, POLICY)
    assert changes.earned == ()
    (attempt,) = changes.attempts
    assert (attempt.state, attempt.tensors, attempt.failure) == (AttemptState.REJECTED, (), CRASH)


def test_cancelling_ends_everything_once() -> None:
    job = after(new_job(tasks=3), assigned(A, 0), Finished(REF, A, OUTPUT), assigned(B, 1))
    job = after(job, Cancelled())
    assert job.job.state is JobState.CANCELLED
    assert {task.state for task in job.tasks} == {TaskState.CANCELLED}
    assert {attempt.state for attempt in job.attempts} == {AttemptState.CANCELLED}
    assert decide(job, Cancelled(), NOW, POLICY).empty


def test_what_is_over_cannot_be_cancelled() -> None:
    done = after(new_job(), assigned(), Finished(REF, A, OUTPUT), Accepted(REF))
    with pytest.raises(Conflict, match="succeeded"):
        decide(done, Cancelled(), NOW, POLICY)


def test_a_cancelled_job_hears_nothing_more() -> None:
    job = after(new_job(), assigned(), Cancelled())
    for event in (Finished(REF, A, OUTPUT), Broken(REF, A, CRASH), Abandoned(REF), assigned(B)):
        with pytest.raises(StaleAttempt):
            decide(job, event, NOW, POLICY)


def test_an_accepted_task_keeps_the_others_going() -> None:
    job = after(new_job(tasks=2), assigned(A, 0), assigned(B, 1), Finished(REF, A, OUTPUT))
    assert job.job.state is JobState.RUNNING
    job = after(job, Accepted(REF))
    assert job.job.state is JobState.RUNNING
    job = after(job, Finished(ref(1, 1), B, OUTPUT))
    assert job.job.state is JobState.VERIFYING
    assert after(job, Accepted(ref(1, 1))).job.state is JobState.SUCCEEDED


def test_a_decision_changes_only_what_it_must() -> None:
    job = new_job(tasks=2)
    changes = decide(after(job, assigned(A, 0)), assigned(B, 1), NOW, POLICY)
    assert changes.job is None
    assert [task.id for task in changes.tasks] == [task_id(JOB, 1)]
    assert [attempt.ref for attempt in changes.attempts] == [ref(1, 1)]
    assert replace(changes, tasks=(), attempts=()).empty


def beside(node: str = B, lagging: int = 1) -> Assigned:
    return Assigned(TASK, node, 10, LEASE, beside=ref(lagging))


def twice() -> JobSnapshot:
    """One task, run on A and, since A lags, on B."""
    return after(new_job(), assigned(), beside())


def test_the_first_to_be_accepted_wins_and_the_other_earns_for_what_it_showed() -> None:
    job = after(twice(), Finished(ref(2), B, OUTPUT))
    assert job.job.state is JobState.VERIFYING
    changes = decide(job, Accepted(ref(2), {ref(1): Shown(430, 30.0)}), NOW + 60, POLICY)
    won, lost = changed(job, changes).attempts[::-1]
    assert (won.state, won.earned) == (AttemptState.ACCEPTED, 10)
    assert (lost.state, lost.earned, lost.failure) == (AttemptState.CANCELLED, 4, None)
    assert sum(attempt.earned for attempt in changes.earned) == 14
    assert changes.job
    assert changes.job.state is JobState.SUCCEEDED


def test_a_second_result_is_stale_once_the_first_is_accepted() -> None:
    job = after(twice(), Finished(ref(2), B, OUTPUT), Finished(REF, A, OUTPUT), Accepted(ref(2)))
    for event in (Accepted(REF), Rejected(REF, CRASH), Finished(REF, A, OUTPUT)):
        with pytest.raises(StaleAttempt):
            decide(job, event, NOW, POLICY)


@pytest.mark.parametrize(
    ("shown", "elapsed", "earned"),
    [
        (None, 60, 0),
        (Shown(500, 60), 60, 500),
        (Shown(1000, 60), 30, 500),
        (Shown(1000, 60), 600, 1000),
        (Shown(1000, 0), 60, 0),
        (Shown(999, float("inf")), 60, 0),
        (Shown(500, 60), -1, 0),
    ],
)
def test_no_more_is_paid_than_can_have_been_done(shown: Shown | None, elapsed: float, earned: int) -> None:
    (attempt,) = after(new_job(), assigned()).attempts
    assert part_of_price(replace(attempt, price=1000), shown, NOW + elapsed) == earned


@pytest.mark.parametrize("event", [Broken(REF, A, CRASH), Broken(REF, A, BAD_INPUT), Abandoned(REF)])
def test_while_one_attempt_goes_on_its_task_does(event: Event) -> None:
    job = after(twice(), event)
    assert (job.tasks[0].state, job.job.state) == (TaskState.ACTIVE, JobState.RUNNING)
    job = after(job, Broken(ref(2), B, CRASH))
    assert job.tasks[0].state is TaskState.WAITING
    assert failed_on(job.attempts_of(TASK)) == (A, B)


def test_the_place_of_an_attempt_that_ended_is_free_again() -> None:
    job = after(twice(), Broken(REF, A, CRASH), beside(C, lagging=2))
    assert [(attempt.node, attempt.lane) for attempt in job.attempts[1:]] == [(B, 1), (C, 0)]


@pytest.mark.parametrize(
    ("events", "second"),
    [
        ([], beside()),
        ([assigned()], beside(A)),
        ([assigned()], beside(B, lagging=2)),
        ([assigned(), Finished(REF, A, OUTPUT)], beside()),
        ([assigned(), beside()], beside(C)),
        ([assigned(), beside()], assigned(C)),
        ([assigned(), beside(), Broken(REF, A, CRASH)], beside(C)),
    ],
)
def test_there_is_room_for_one_attempt_beside_one_that_runs_elsewhere(events: list[Event], second: Assigned) -> None:
    job = after(new_job(), *events)
    with pytest.raises(StaleAttempt):
        decide(job, second, NOW, POLICY)


def test_what_has_to_be_put_together_is_not_over_with_its_tasks() -> None:
    fresh = new_job()
    pieces = tuple(replace(task, work=task.work.model_copy(update={"direct": False})) for task in fresh.tasks)
    job = after(replace(fresh, tasks=pieces), assigned(), Finished(REF, A, OUTPUT))
    with pytest.raises(Conflict, match="tasks are all done"):
        decide(job, Assembled(), NOW, POLICY)
    job = after(job, Accepted(REF))
    assert job.job.state is JobState.VERIFYING
    assert is_assembling(job)
    assert after(job, Cancelled()).job.state is JobState.CANCELLED
    failed = after(job, Unassembled(CRASH)).job
    assert (failed.state, failed.failure) == (JobState.FAILED, CRASH)
    done = after(job, Assembled())
    assert done.job.state is JobState.SUCCEEDED
    assert not is_assembling(done)
    with pytest.raises(Conflict):
        decide(after(new_job(), assigned(), Finished(REF, A, OUTPUT), Accepted(REF)), Assembled(), NOW, POLICY)


def preparing() -> JobSnapshot:
    return JobSnapshot(replace(new_job().job, state=JobState.PREPARING, price=None), (), ())


def test_a_job_that_is_prepared_is_queued_at_its_price() -> None:
    tasks = new_job(2).tasks
    changes = decide(preparing(), Prepared(tasks, 77, (SHA,)), NOW, POLICY)
    assert changes.job is not None
    assert (changes.job.state, changes.job.price, changes.job.finished_at) == (JobState.QUEUED, 77, None)
    assert (changes.planned, changes.artifacts) == (tasks, (SHA,))


def test_a_job_that_cannot_be_prepared_fails_and_one_may_be_cancelled() -> None:
    failed = after(preparing(), Unprepared(BAD_INPUT))
    assert (failed.job.state, failed.job.failure, failed.job.finished_at) == (JobState.FAILED, BAD_INPUT, NOW)
    assert after(preparing(), Cancelled()).job.state is JobState.CANCELLED


def test_a_job_is_prepared_once() -> None:
    for job in (new_job(), after(preparing(), Cancelled())):
        for event in (Prepared((), 1, ()), Unprepared(BAD_INPUT)):
            with pytest.raises(Conflict, match="is preparing"):
                decide(job, event, NOW, POLICY)
    with pytest.raises(StaleAttempt):
        decide(preparing(), assigned(), NOW, POLICY)


def exporting() -> JobSnapshot:
    request = TranscodeRequest(
        kind="transcode",
        input=ArtifactInput(artifact=SHA),
        output=OutputRequest(upload={"720p": "https://bucket.example/720p"}),
    )
    job = new_job()
    job = replace(job, job=replace(job.job, request=request))
    return after(job, assigned(), Finished(REF, A, OUTPUT), Accepted(REF))


def test_a_job_with_urls_for_its_results_is_exported_before_it_succeeds() -> None:
    job = exporting()
    assert (job.job.state, job.job.finished_at) == (JobState.EXPORTING, None)
    done = after(job, Exported(), now=NOW + 5)
    assert (done.job.state, done.job.finished_at) == (JobState.SUCCEEDED, NOW + 5)
    failed = after(job, Unexported(BAD_INPUT))
    assert (failed.job.state, failed.job.failure) == (JobState.FAILED, BAD_INPUT)
    assert after(job, Cancelled()).job.state is JobState.CANCELLED
    for over in (new_job(), done):
        for event in (Exported(), Unexported(BAD_INPUT)):
            with pytest.raises(Conflict, match="is exporting"):
                decide(over, event, NOW, POLICY)
