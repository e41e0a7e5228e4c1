"""What an event does to a job: a pure function from a snapshot to the rows that change.

Every event about an attempt names its number, the fencing token. An attempt that is not an active one of its task, or
that another node holds, raises StaleAttempt, and nothing changes. A task has one active attempt, or two on different
nodes where the first lags: the first to be accepted wins, and the other is cancelled and earns for what it showed done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from orchestrator.core.blame import DECLINED, RetryPolicy, backoff, giving_up
from orchestrator.core.completion import is_assembling, needs_assembly
from orchestrator.core.leftovers import leftovers
from orchestrator.core.packaging import JobFile
from orchestrator.core.records import AttemptRecord, Failure, JobChanges, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.errors import AttemptLost, Conflict, StaleAttempt
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import JOB_TRANSITIONS, AttemptState, JobState, TaskState, is_final, uploads_of
from tandem.protocol.outputs import Output
from tandem.protocol.tensors import Tensor

_LIVE = frozenset({AttemptState.RUNNING, AttemptState.VERIFYING})


@dataclass(frozen=True, slots=True)
class Shown:
    """How far an attempt is by its node's own word, and how long the whole takes that node by its measured speed."""

    permille: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Assigned:
    """The scheduler gives the task's next attempt to a node, under a lease of so many seconds."""

    task: str
    node: str
    price: int
    lease: float
    beside: AttemptRef | None = None
    """The running attempt that lags and goes on meanwhile; None: the task waits for a node."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The node says it is done: the result is to be verified."""

    ref: AttemptRef
    node: str
    output: Output
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """Verification found nothing wrong. `shown` is of the attempt beside it, if there is one."""

    ref: AttemptRef
    shown: Mapping[AttemptRef, Shown] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Verification found the result not to be what was asked."""

    ref: AttemptRef
    failure: Failure


@dataclass(frozen=True, slots=True)
class Broken:
    """The node says that it failed, or hands the attempt back."""

    ref: AttemptRef
    node: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class Expired:
    """The lease ran out. Stale if it was extended meanwhile."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The node came back without the attempt."""

    ref: AttemptRef


@dataclass(frozen=True, slots=True)
class Assembled:
    """What players open is put together from the results of all tasks: `files`, beside those that are there."""

    files: tuple[JobFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Unassembled:
    """It cannot be put together."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Retried:
    """The submitter wants a failed job tried again: `tasks` are new, and make what no task has made."""

    tasks: tuple[TaskRecord, ...]
    artifacts: tuple[str, ...] = ()
    """Without which they, and what was made before, are of no use."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The submitter wants no more of it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The input is there and looked into: what is to be done, at which price in wei, and what must be kept for it."""

    tasks: tuple[TaskRecord, ...]
    price: int
    artifacts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unprepared:
    """The job cannot be prepared."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Exported:
    """The results are where the submitter wanted them."""


@dataclass(frozen=True, slots=True)
class Unexported:
    """They cannot be written there."""

    failure: Failure


JobEvent = Cancelled | Prepared | Unprepared | Assembled | Unassembled | Retried | Exported | Unexported
Event = Assigned | Finished | Accepted | Rejected | Broken | Expired | Abandoned | JobEvent


def decide(snapshot: JobSnapshot, event: Event, now: float, policy: RetryPolicy) -> JobChanges:
    """What `event` changes. Raises StaleAttempt, or Conflict for a job that is over."""
    changes = _step(snapshot, event, now, policy)
    released = leftovers(changed(snapshot, changes))
    return replace(changes, released=released) if released else changes


def _step(  # noqa: PLR0911 - one arm an event
    snapshot: JobSnapshot, event: Event, now: float, policy: RetryPolicy
) -> JobChanges:
    match event:
        case Assigned():
            return _assign(snapshot, event, now)
        case Finished(ref, node, output, tensors):
            attempt = _held(snapshot, ref, node)
            verifying = replace(attempt, state=AttemptState.VERIFYING, output=output, tensors=tensors)
            return _changed(snapshot, now, (verifying,))
        case Accepted(ref, shown):
            return _accept(snapshot, ref, shown, now)
        case Rejected(ref, failure):
            attempt = _current(snapshot, ref, AttemptState.VERIFYING)
            return _over(snapshot, replace(attempt, tensors=()), AttemptState.REJECTED, failure, now, policy)
        case Broken(ref, node, failure):
            attempt = _held(snapshot, ref, node)
            state = AttemptState.RETURNED if failure.code in DECLINED else AttemptState.FAILED
            return _over(snapshot, attempt, state, failure, now, policy)
        case Expired(ref):
            return _lose(snapshot, _overdue(snapshot, ref, now), "the node's lease ran out", now, policy)
        case Abandoned(ref):
            attempt = _current(snapshot, ref, AttemptState.RUNNING)
            return _lose(snapshot, attempt, "the node came back without the attempt", now, policy)
        case _:
            return _step_of_job(snapshot, event, now)


def _step_of_job(snapshot: JobSnapshot, event: JobEvent, now: float) -> JobChanges:  # noqa: C901, PLR0911 - one arm an event
    match event:
        case Cancelled():
            return _cancel(snapshot, now)
        case Assembled(files):
            return JobChanges(job=_done(_assembling(snapshot).job, now), files=files)
        case Unassembled(failure):
            return _end_job(_open(snapshot), JobState.FAILED, failure, now)
        case Retried(tasks, artifacts):
            return replace(_retry(snapshot, tasks, now), artifacts=artifacts)
        case Prepared(tasks, price, artifacts):
            queued = replace(_in(snapshot, JobState.PREPARING), state=JobState.QUEUED, price=price)
            return JobChanges(job=queued, planned=tasks, artifacts=artifacts)
        case Unprepared(failure):
            _in(snapshot, JobState.PREPARING)
            return _end_job(snapshot, JobState.FAILED, failure, now)
        case Exported():
            _in(snapshot, JobState.EXPORTING)
            return _end_job(snapshot, JobState.SUCCEEDED, None, now)
        case Unexported(failure):
            _in(snapshot, JobState.EXPORTING)
            return _end_job(snapshot, JobState.FAILED, failure, now)
        case _:
            assert_never(event)


def changed(snapshot: JobSnapshot, changes: JobChanges) -> JobSnapshot:
    """The job once the changes are written."""
    tasks = {task.id: task for task in (*snapshot.tasks, *changes.tasks, *changes.planned)}
    attempts = {attempt.ref: attempt for attempt in (*snapshot.attempts, *changes.attempts)}
    return JobSnapshot(changes.job or snapshot.job, tuple(tasks.values()), tuple(attempts.values()))


def _assign(snapshot: JobSnapshot, event: Assigned, now: float) -> JobChanges:
    task = snapshot.task(event.task)
    live = _live(snapshot, event.task)
    if task is None or not _has_room(task, live, event):
        wanted = "waiting" if event.beside is None else f"run by {event.beside} alone, not on {event.node}"
        found = f"{task.state} with {[str(attempt.ref) for attempt in live]}" if task else "none"
        raise StaleAttempt(f"expected task {event.task} to be {wanted}, got {found}")
    number = 1 + max((attempt.ref.number for attempt in snapshot.attempts_of(task.id)), default=0)
    attempt = AttemptRecord(
        ref=AttemptRef(task=task.id, number=number),
        node=event.node,
        state=AttemptState.RUNNING,
        price=event.price,
        started_at=now,
        lease_until=now + event.lease,
        lane=1 - live[0].lane if live else 0,
    )
    return _changed(snapshot, now, (attempt,), replace(task, state=TaskState.ACTIVE))


def _has_room(task: TaskRecord, live: Sequence[AttemptRecord], event: Assigned) -> bool:
    if event.beside is None:
        return task.state is TaskState.WAITING
    running = [attempt for attempt in live if attempt.state is AttemptState.RUNNING and attempt.node != event.node]
    return len(live) == 1 and [attempt.ref for attempt in running] == [event.beside]


def _accept(snapshot: JobSnapshot, ref: AttemptRef, shown: Mapping[AttemptRef, Shown], now: float) -> JobChanges:
    attempt = _current(snapshot, ref, AttemptState.VERIFYING)
    accepted = replace(attempt, state=AttemptState.ACCEPTED, finished_at=now, earned=attempt.price)
    beaten = tuple(
        replace(
            other,
            state=AttemptState.CANCELLED,
            finished_at=now,
            tensors=(),
            earned=part_of_price(other, shown.get(other.ref), now),
        )
        for other in _live(snapshot, ref.task)
        if other.ref != ref
    )
    changes = _changed(snapshot, now, (accepted, *beaten), replace(_task(snapshot, ref), state=TaskState.DONE))
    return replace(changes, earned=(accepted, *(other for other in beaten if other.earned)))


def part_of_price(attempt: AttemptRecord, shown: Shown | None, now: float) -> int:
    """Wei, rounded down, for what an attempt that is not accepted showed done: no more than it can have done by now."""
    if shown is None:
        return 0
    possible = int(1000 * max(0.0, now - attempt.started_at) / shown.seconds) if shown.seconds > 0 else 0
    return attempt.price * min(1000, shown.permille, possible) // 1000


def _live(snapshot: JobSnapshot, task: str) -> tuple[AttemptRecord, ...]:
    return tuple(attempt for attempt in snapshot.attempts_of(task) if attempt.state in _LIVE)


def _lose(snapshot: JobSnapshot, attempt: AttemptRecord, why: str, now: float, policy: RetryPolicy) -> JobChanges:
    lost = Failure(AttemptLost.code, why, retryable=True)
    return _over(snapshot, attempt, AttemptState.EXPIRED, lost, now, policy)


def _over(
    snapshot: JobSnapshot,
    attempt: AttemptRecord,
    state: AttemptState,
    failure: Failure,
    now: float,
    policy: RetryPolicy,
) -> JobChanges:
    ended = replace(attempt, state=state, failure=failure, finished_at=now)
    if any(other.ref != ended.ref for other in _live(snapshot, ended.ref.task)):
        return _changed(snapshot, now, (ended,))  # the other one goes on
    task = _task(snapshot, attempt.ref)
    history = (*(a for a in snapshot.attempts_of(task.id) if a.ref != attempt.ref), ended)
    verdict = giving_up(history, policy)
    if verdict is None:
        waiting = replace(task, state=TaskState.WAITING, not_before=now + backoff(history, policy))
        return _changed(snapshot, now, (ended,), waiting)
    return _fail_job(snapshot, ended, replace(task, state=TaskState.FAILED), verdict, now)


def _assembling(snapshot: JobSnapshot) -> JobSnapshot:
    if not is_assembling(snapshot):
        raise Conflict(f"expected a job whose tasks are all done, and that is not over, got {snapshot.job.state}")
    return snapshot


def _retry(snapshot: JobSnapshot, new: tuple[TaskRecord, ...], now: float) -> JobChanges:
    if snapshot.job.state is not JobState.FAILED or any(snapshot.task(task.id) for task in new):
        raise Conflict(f"expected a job that has failed, got one that is {snapshot.job.state}; nothing to try again")
    replaced = tuple(replace(t, state=TaskState.CANCELLED) for t in snapshot.tasks if t.state is TaskState.FAILED)
    fresh = replace(snapshot.job, failure=None, finished_at=None)
    changes = JobChanges(job=fresh, tasks=replaced, planned=new)
    return replace(changes, job=_follow(changed(snapshot, changes), now))


def _in(snapshot: JobSnapshot, state: JobState) -> JobRecord:
    if snapshot.job.state is not state:
        raise Conflict(f"expected a job that is {state}, got one that is {snapshot.job.state}")
    return snapshot.job


def _cancel(snapshot: JobSnapshot, now: float) -> JobChanges:
    if snapshot.job.state is JobState.CANCELLED:
        return JobChanges()
    return _end_job(_open(snapshot), JobState.CANCELLED, None, now)


def _open(snapshot: JobSnapshot) -> JobSnapshot:
    if is_final(JOB_TRANSITIONS, snapshot.job.state):
        raise Conflict(f"expected a job that is not over, got one that has {snapshot.job.state}; nothing to cancel")
    return snapshot


def _fail_job(
    snapshot: JobSnapshot, ended: AttemptRecord, failed: TaskRecord, failure: Failure, now: float
) -> JobChanges:
    merged = _merge(snapshot, (ended,), failed)
    changes = _end_job(merged, JobState.FAILED, failure, now)
    return replace(changes, tasks=(failed, *changes.tasks), attempts=(ended, *changes.attempts))


def _end_job(snapshot: JobSnapshot, state: JobState, failure: Failure | None, now: float) -> JobChanges:
    """Ends a job with everything of it that is still open."""
    return JobChanges(
        job=replace(snapshot.job, state=state, failure=failure, finished_at=now),
        tasks=tuple(
            replace(task, state=TaskState.CANCELLED)
            for task in snapshot.tasks
            if task.state in {TaskState.WAITING, TaskState.ACTIVE}
        ),
        attempts=tuple(
            replace(attempt, state=AttemptState.CANCELLED, finished_at=now, tensors=())
            for attempt in snapshot.attempts
            if attempt.state in _LIVE
        ),
    )


def _changed(
    snapshot: JobSnapshot, now: float, attempts: tuple[AttemptRecord, ...], task: TaskRecord | None = None
) -> JobChanges:
    """The changes of attempts and their task, with the job's state that follows from them."""
    merged = _merge(snapshot, attempts, task)
    job = _follow(merged, now)
    return JobChanges(
        job=job if job != snapshot.job else None,
        tasks=() if task is None or task == snapshot.task(task.id) else (task,),
        attempts=attempts,
    )


def _merge(snapshot: JobSnapshot, attempts: tuple[AttemptRecord, ...], task: TaskRecord | None) -> JobSnapshot:
    tasks = tuple(task if task is not None and old.id == task.id else old for old in snapshot.tasks)
    changed = {attempt.ref for attempt in attempts}
    others = tuple(old for old in snapshot.attempts if old.ref not in changed)
    return JobSnapshot(job=snapshot.job, tasks=tasks, attempts=(*others, *attempts))


def _follow(snapshot: JobSnapshot, now: float) -> JobRecord:
    """The job with the state that its tasks and attempts call for."""
    states = {task.state for task in snapshot.tasks} - {TaskState.CANCELLED}  # those were replaced by others
    if states == {TaskState.DONE}:
        if needs_assembly(snapshot):
            return replace(snapshot.job, state=JobState.VERIFYING)
        return _done(snapshot.job, now)
    if TaskState.ACTIVE not in states:
        return replace(snapshot.job, state=JobState.RUNNING if TaskState.DONE in states else JobState.QUEUED)
    verifying = {attempt.ref.task for attempt in snapshot.attempts if attempt.state is AttemptState.VERIFYING}
    delivered = TaskState.WAITING not in states and all(
        task.id in verifying for task in snapshot.tasks if task.state is TaskState.ACTIVE
    )
    return replace(snapshot.job, state=JobState.VERIFYING if delivered else JobState.RUNNING)


def _done(job: JobRecord, now: float) -> JobRecord:
    """With all its results."""
    if uploads_of(job.request):
        return replace(job, state=JobState.EXPORTING)
    return replace(job, state=JobState.SUCCEEDED, finished_at=now)


def _task(snapshot: JobSnapshot, ref: AttemptRef) -> TaskRecord:
    task = snapshot.task(ref.task)
    if task is None:
        raise StaleAttempt(f"expected an attempt of a known task, got {ref}")
    return task


def _current(snapshot: JobSnapshot, ref: AttemptRef, state: AttemptState) -> AttemptRecord:
    attempt = snapshot.attempt(ref)
    if attempt is None or attempt.state is not state:
        found = attempt.state if attempt else "none"
        raise StaleAttempt(f"expected attempt {ref} to be {state}, got {found}; it was taken from its node")
    return attempt


def _overdue(snapshot: JobSnapshot, ref: AttemptRef, now: float) -> AttemptRecord:
    attempt = _current(snapshot, ref, AttemptState.RUNNING)
    if attempt.lease_until > now:
        raise StaleAttempt(f"expected the lease of {ref} to be over, got one extended by {attempt.lease_until - now} s")
    return attempt


def _held(snapshot: JobSnapshot, ref: AttemptRef, node: str) -> AttemptRecord:
    attempt = _current(snapshot, ref, AttemptState.RUNNING)
    if attempt.node != node:
        raise StaleAttempt(f"expected attempt {ref} to be said of by {attempt.node}, its node, got {node}")
    return attempt
