"""Decisions: all or nothing, fenced by the attempt's number, and money owed in the same write."""

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.core.records import JobChanges, JobSnapshot
from orchestrator.ports.store import JobDecision, Store
from tandem.protocol.errors import Conflict, InvalidTransition, NotFound, StaleAttempt
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import AttemptState, JobState, TaskState
from tests.conformance.store.samples import (
    HUGE,
    LABELS,
    LOST,
    NODE,
    OTHER,
    RESULT,
    START,
    accept,
    at_once,
    begin,
    cancel,
    decided,
    deliver,
    digest,
    fail,
    inference,
    job_number,
    nothing,
    ref_of,
    renditions,
    transcode,
)
from tests.fixtures.clock import ManualClock

JOB = inference()
FIRST, SECOND = ref_of(JOB), ref_of(JOB, 2)


@pytest.fixture(autouse=True)
async def _submitted(store: Store) -> None:
    await store.submit(JOB)


async def state(store: Store) -> JobSnapshot:
    return await store.job(JOB.job.id)


async def test_a_job_from_its_first_attempt_to_its_end(store: Store, clock: ManualClock) -> None:
    await decided(store, JOB, begin(FIRST))
    clock.advance(5)
    await decided(store, JOB, deliver(FIRST, tensors=(LABELS,)))
    clock.advance(5)
    await decided(store, JOB, accept(FIRST))
    found = await state(store)
    (attempt,) = found.attempts
    assert (found.job.state, found.job.finished_at) == (JobState.SUCCEEDED, START + 10)
    assert found.tasks[0].state is TaskState.DONE
    assert (attempt.state, attempt.node, attempt.price) == (AttemptState.ACCEPTED, NODE, HUGE)
    assert (attempt.started_at, attempt.lease_until, attempt.finished_at) == (START, START + 30, START + 10)
    assert (attempt.output, attempt.tensors) == (RESULT, (LABELS,))
    assert (await store.account(NODE)).earned == HUGE


async def test_a_decision_sees_the_stores_time_and_no_tensors(store: Store, clock: ManualClock) -> None:
    await decided(store, JOB, begin(FIRST), deliver(FIRST, tensors=(LABELS,)))
    clock.advance(7)
    seen: list[tuple[JobSnapshot, float]] = []

    def look(snapshot: JobSnapshot, now: float) -> JobChanges:
        seen.append((snapshot, now))
        return JobChanges()

    assert await store.decide([JOB.job.id], look) == [JobChanges()]
    ((snapshot, now),) = seen
    assert now == await store.now() == START + 7
    assert snapshot.attempts[0].tensors == ()


async def test_a_second_attempt_after_the_first_has_ended(store: Store) -> None:
    await decided(store, JOB, begin(FIRST), fail(FIRST), begin(SECOND, OTHER))
    first, second = (await state(store)).attempts
    assert (first.state, first.failure) == (AttemptState.EXPIRED, LOST)
    assert (second.state, second.node) == (AttemptState.RUNNING, OTHER)


async def test_one_write_may_end_an_attempt_and_begin_the_next(store: Store) -> None:
    await decided(store, JOB, begin(FIRST))

    def replace_it(snapshot: JobSnapshot, now: float) -> JobChanges:
        ended, begun = fail(FIRST)(snapshot, now), begin(SECOND)(snapshot, now)
        return JobChanges(attempts=(*begun.attempts, *ended.attempts))

    await decided(store, JOB, replace_it)
    assert [a.state for a in (await state(store)).attempts] == [AttemptState.EXPIRED, AttemptState.RUNNING]


async def test_two_attempts_side_by_side_the_first_accepted_wins_and_both_are_owed(store: Store) -> None:
    await decided(store, JOB, begin(FIRST, price=10), begin(SECOND, OTHER, 20, lane=1), deliver(SECOND))
    await decided(store, JOB, accept(SECOND, FIRST, 4))
    first, second = (await state(store)).attempts
    assert (first.state, first.earned, first.lane) == (AttemptState.CANCELLED, 4, 0)
    assert (second.state, second.earned, second.lane) == (AttemptState.ACCEPTED, 20, 1)
    assert ((await store.account(NODE)).earned, (await store.account(OTHER)).earned) == (4, 20)
    assert (await store.books("31337:0xc0:0x5e")).attempts == {NODE: 4, OTHER: 20}
    for late in (deliver(FIRST), accept(FIRST), accept(SECOND, FIRST, 4)):
        with pytest.raises(StaleAttempt):
            await decided(store, JOB, late)
    assert (await store.account(NODE)).earned == 4


@pytest.mark.parametrize("part", [-1, 11])
async def test_a_part_is_not_more_than_the_price(store: Store, part: int) -> None:
    await decided(store, JOB, begin(FIRST, price=10), begin(SECOND, OTHER, lane=1), deliver(SECOND))
    with pytest.raises(InvalidTransition, match="or a part of it"):
        await decided(store, JOB, accept(SECOND, FIRST, part))


@pytest.mark.parametrize("lane", [0, 1, 2])
async def test_a_task_has_two_lanes(store: Store, lane: int) -> None:
    await decided(store, JOB, begin(FIRST), begin(SECOND, OTHER, lane=1))
    with pytest.raises(IntegrityError):
        await decided(store, JOB, begin(ref_of(JOB, 3), "third", lane=lane))
    assert len((await state(store)).attempts) == 2


STALE: list[JobDecision] = [deliver(FIRST), accept(FIRST), fail(FIRST), begin(FIRST)]


@pytest.mark.parametrize("late", STALE, ids=["deliver", "accept", "fail", "begin"])
async def test_a_stale_attempt_changes_nothing(store: Store, late: JobDecision) -> None:
    await decided(store, JOB, begin(FIRST), fail(FIRST), begin(SECOND))
    before = await state(store)
    with pytest.raises(StaleAttempt, match=str(FIRST)):
        await store.decide([JOB.job.id], late)
    assert await state(store) == before
    assert (await store.account(NODE)).earned == 0


async def test_an_attempt_is_not_taken_over_by_another_node(store: Store) -> None:
    await decided(store, JOB, begin(FIRST))
    with pytest.raises(StaleAttempt, match=OTHER):
        await decided(store, JOB, begin(FIRST, OTHER))


async def test_an_attempt_is_paid_once(store: Store) -> None:
    await decided(store, JOB, begin(FIRST), deliver(FIRST), accept(FIRST))
    with pytest.raises(StaleAttempt):
        await decided(store, JOB, accept(FIRST))
    assert (await store.account(NODE)).earned == HUGE


def _jump(snapshot: JobSnapshot, now: float) -> JobChanges:
    return JobChanges(job=replace(snapshot.job, state=JobState.SUCCEEDED, finished_at=now))


def _done_unasked(snapshot: JobSnapshot, _now: float) -> JobChanges:
    return JobChanges(tasks=(replace(snapshot.tasks[0], state=TaskState.DONE),))


def _born_verifying(snapshot: JobSnapshot, now: float) -> JobChanges:
    (attempt,) = begin(FIRST)(snapshot, now).attempts
    return JobChanges(attempts=(replace(attempt, state=AttemptState.VERIFYING, output=RESULT),))


def _earned_for_nothing(snapshot: JobSnapshot, now: float) -> JobChanges:
    changes = begin(FIRST)(snapshot, now)
    return replace(changes, earned=changes.attempts)


@pytest.mark.parametrize("decision", [_jump, _done_unasked, _born_verifying, _earned_for_nothing, accept(FIRST)])
async def test_a_step_that_is_not_in_the_tables_changes_nothing(store: Store, decision: JobDecision) -> None:
    if decision not in (_born_verifying, _earned_for_nothing, _jump, _done_unasked):
        await decided(store, JOB, begin(FIRST))
    before = await state(store)
    with pytest.raises(InvalidTransition):
        await decided(store, JOB, decision)
    assert await state(store) == before
    assert (await store.account(NODE)).earned == 0


async def test_an_attempt_is_owed_for_once_in_a_write(store: Store) -> None:
    await decided(store, JOB, begin(FIRST), deliver(FIRST))

    def greedy(snapshot: JobSnapshot, now: float) -> JobChanges:
        changes = accept(FIRST)(snapshot, now)
        return replace(changes, earned=changes.earned * 2)

    with pytest.raises(InvalidTransition, match="each once"):
        await decided(store, JOB, greedy)


async def test_rows_of_another_job_are_not_found(store: Store) -> None:
    await store.submit(inference(1))
    foreign = ref_of(inference(1))

    def meddle(snapshot: JobSnapshot, now: float) -> JobChanges:
        return JobChanges(attempts=(replace(begin(FIRST)(snapshot, now).attempts[0], ref=foreign),))

    def meddle_task(snapshot: JobSnapshot, _now: float) -> JobChanges:
        return JobChanges(tasks=(replace(snapshot.tasks[0], id=foreign.task),))

    for decision in (meddle, meddle_task):
        with pytest.raises(NotFound, match=foreign.task):
            await decided(store, JOB, decision)


async def test_a_decision_that_raises_changes_nothing(store: Store) -> None:
    def refuse(_snapshot: JobSnapshot, _now: float) -> JobChanges:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await decided(store, JOB, refuse)
    assert (await state(store)).job == JOB.job


async def test_several_jobs_are_decided_in_order_in_one_transaction(store: Store) -> None:
    await store.submit(inference(1))
    ids = [job_number(1), job_number(0)]
    changes = await store.decide(ids, cancel)
    assert [change.job.id for change in changes if change.job] == ids


async def test_attempts_of_several_jobs_end_in_one_transaction(store: Store) -> None:
    submissions = [JOB, inference(1), inference(2)]
    for submission in submissions[1:]:
        await store.submit(submission)
    ids = [submission.job.id for submission in submissions]
    await store.decide(ids, begin_first_task)
    await store.decide(ids, lambda snapshot, now: deliver(_first(snapshot))(snapshot, now))
    await store.decide(ids, lambda snapshot, now: accept(_first(snapshot))(snapshot, now))
    snapshots = [await store.job(job) for job in ids]
    assert [attempt.state for snapshot in snapshots for attempt in snapshot.attempts] == [AttemptState.ACCEPTED] * 3
    assert (await store.account(NODE)).earned == 3 * HUGE


def _first(snapshot: JobSnapshot) -> AttemptRef:
    return AttemptRef(task=snapshot.tasks[0].id, number=1)


@pytest.mark.parametrize("second", [job_number(1), job_number(99)], ids=["refused", "unknown"])
async def test_several_jobs_are_all_written_or_none(store: Store, second: str) -> None:
    await store.submit(inference(1))
    await decided(store, inference(1), cancel)
    with pytest.raises((InvalidTransition, NotFound)):
        await store.decide([JOB.job.id, second], begin_first_task)
    assert (await state(store)).attempts == ()


def begin_first_task(snapshot: JobSnapshot, now: float) -> JobChanges:
    return begin(_first(snapshot))(snapshot, now)


async def test_a_job_given_twice_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="each job once"):
        await store.decide([JOB.job.id, JOB.job.id], nothing)


async def test_no_jobs_are_decided_at_once(store: Store) -> None:
    assert await store.decide([], nothing) == []


async def test_of_many_at_once_exactly_one_wins(store: Store) -> None:
    outcomes = await at_once(32, lambda number: store.decide([JOB.job.id], begin(FIRST, f"node-{number}")))
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StaleAttempt) for outcome in outcomes) == 31
    assert len((await state(store)).attempts) == 1


async def test_many_results_at_once_are_owed_in_full(store: Store) -> None:
    jobs = [inference(number) for number in range(1, 33)]
    for job in jobs:
        await store.submit(job)
        await decided(store, job, begin(ref_of(job), price=3), deliver(ref_of(job)))
    await at_once(32, lambda number: store.decide([jobs[number].job.id], accept(ref_of(jobs[number]))))
    assert (await store.account(NODE)).earned == 32 * 3


async def test_rejected_tensors_are_dropped(store: Store) -> None:
    await decided(store, JOB, begin(FIRST), deliver(FIRST, tensors=(LABELS,)), fail(FIRST, AttemptState.REJECTED))
    (attempt,) = (await state(store)).attempts
    assert (attempt.output, attempt.tensors) == (RESULT, ())


async def test_an_accepted_rendition_must_be_stored(store: Store) -> None:
    await store.add_artifact(digest(7), 100, "video/mp4")
    video = transcode(1)
    await store.submit(video)
    ref = ref_of(video)
    await decided(store, video, begin(ref), deliver(ref, renditions(8)))
    with pytest.raises(NotFound, match=digest(8)):
        await decided(store, video, accept(ref))
    assert (await store.account(NODE)).earned == 0
    await store.add_artifact(digest(8), 1, "video/mp4")
    await decided(store, video, accept(ref))
    assert (await store.account(NODE)).earned == HUGE
