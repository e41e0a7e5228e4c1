"""What a decision changes, checked against what the store holds, then written.

The checks need no database. The statements repeat the one that matters, the fence: an attempt is written only over
one that is running or being verified on the same node, and the count of rows says whether it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, delete, insert, or_, update

from orchestrator.adapters.store.exports import follow_export
from orchestrator.adapters.store.ledger import earn
from orchestrator.adapters.store.preparations import end_preparation
from orchestrator.adapters.store.queries import insert_tasks, put_files, refer, release
from orchestrator.adapters.store.rows import attempt_values, tensor_values
from orchestrator.adapters.store.schema import ACTIVE, attempts, jobs, tasks, tensors
from orchestrator.adapters.store.webhooks import tell
from orchestrator.core.records import AttemptRecord, JobChanges, JobRecord, JobSnapshot
from tandem.protocol.errors import InvalidTransition, NotFound, StaleAttempt
from tandem.protocol.ids import job_of
from tandem.protocol.jobs import (
    ATTEMPT_TRANSITIONS,
    JOB_TRANSITIONS,
    TASK_TRANSITIONS,
    AttemptState,
    JobState,
    is_final,
    step,
)
from tandem.protocol.outputs import BatchOutput, InferenceOutput, TranscodeOutput

_KEEP_TENSORS = (*ACTIVE, AttemptState.ACCEPTED)

_UPDATE_JOB = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"))
    .values({name: bindparam(name) for name in ("state", "price", "finished_at", "failure")})
)
_UPDATE_TASK = (
    update(tasks)
    .where(tasks.c.id == bindparam("of_task"))
    .values(state=bindparam("state"), not_before=bindparam("not_before"))
)
_UPDATE_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.task == bindparam("of_task"),
        attempts.c.number == bindparam("of_number"),
        attempts.c.node == bindparam("of_node"),
        or_(*(attempts.c.state == state for state in ACTIVE)),  # many rows at once take no list
    )
    .values({name: bindparam(name) for name in ("state", "lease_until", "output", "failure", "finished_at", "earned")})
)
_INSERT_ATTEMPT = insert(attempts)
_INSERT_TENSORS = insert(tensors)
DELETE_TENSORS = delete(tensors).where(
    tensors.c.task == bindparam("of_task"), tensors.c.number == bindparam("of_number")
)


@dataclass(frozen=True, slots=True)
class Writes:
    """The changes of one or many jobs, checked and sorted by what is to be done."""

    changes: Sequence[JobChanges]
    begun: list[AttemptRecord] = field(default_factory=list)
    moved: list[AttemptRecord] = field(default_factory=list)
    """Attempts that are there and not over."""
    delivered: list[AttemptRecord] = field(default_factory=list)
    """Those of them that now have a result."""
    earned: list[AttemptRecord] = field(default_factory=list)
    """Those that are owed for from now on."""
    prepared: list[JobChanges] = field(default_factory=list)
    """Of jobs that leave the state `preparing`."""
    moved_jobs: list[JobRecord] = field(default_factory=list)
    """Jobs in a state that they were not in before."""


def check(snapshots: Sequence[JobSnapshot], changes: Sequence[JobChanges]) -> Writes:
    """Raises StaleAttempt, InvalidTransition or NotFound for what may not be written."""
    writes = Writes(changes)
    for snapshot, change in zip(snapshots, changes, strict=True):
        # First, since whoever is stale is to be told so, and not which step of the job it can no longer take.
        for attempt in change.attempts:
            _check_attempt(snapshot, attempt, writes)
        _check_tasks(snapshot, change)
        if change.job is not None:
            step(JOB_TRANSITIONS, snapshot.job.state, change.job.state)
            if snapshot.job.state is JobState.PREPARING:
                writes.prepared.append(change)
            if snapshot.job.state is not change.job.state:
                writes.moved_jobs.append(change.job)
        writes.earned.extend(_earned(snapshot, change))
    return writes


def write(connection: Connection, writes: Writes, now: float) -> None:
    """Attempts that end are written before those that begin: a lane holds one active attempt at any time."""
    _write_states(connection, writes.changes)
    for change in writes.changes:
        insert_tasks(connection, change.planned)
        if change.job is not None:
            refer(connection, change.job.id, change.artifacts)
            put_files(connection, change.job.id, change.files)
    for change in writes.prepared:
        end_preparation(connection, change)
    if writes.moved:
        _move(connection, writes.moved)
        _write_tensors(connection, writes)
    if writes.begun:
        connection.execute(_INSERT_ATTEMPT, [attempt_values(attempt) for attempt in writes.begun])
    _release(connection, writes.changes)
    earn(connection, now, writes.earned)
    for job in writes.moved_jobs:
        follow_export(connection, job)
        tell(connection, job, now)


def _release(connection: Connection, changes: Sequence[JobChanges]) -> None:
    for change in changes:
        if change.job is not None and change.released:
            release(connection, change.job.id, change.released)


def _check_tasks(snapshot: JobSnapshot, change: JobChanges) -> None:
    for task in change.tasks:
        old = snapshot.task(task.id)
        if old is None:
            raise NotFound(f"expected a task of job {snapshot.job.id}, got {task.id}")
        step(TASK_TRANSITIONS, old.state, task.state)


def _check_attempt(snapshot: JobSnapshot, attempt: AttemptRecord, writes: Writes) -> None:
    old = snapshot.attempt(attempt.ref)
    if old is None:
        _check_new(snapshot, attempt)
        writes.begun.append(attempt)
        return
    _check_move(old, attempt)
    writes.moved.append(attempt)
    if old.state is AttemptState.RUNNING and attempt.state is AttemptState.VERIFYING:
        writes.delivered.append(attempt)


def _check_move(old: AttemptRecord, attempt: AttemptRecord) -> None:
    if is_final(ATTEMPT_TRANSITIONS, old.state) or old.node != attempt.node:
        raise StaleAttempt(
            f"expected attempt {attempt.ref} to be active on {attempt.node}, got {old.state} on {old.node}"
        )
    step(ATTEMPT_TRANSITIONS, old.state, attempt.state)


def _check_new(snapshot: JobSnapshot, attempt: AttemptRecord) -> None:
    if snapshot.task(attempt.ref.task) is None:
        raise NotFound(f"expected an attempt at a task of job {snapshot.job.id}, got {attempt.ref}")
    if attempt.state is not AttemptState.RUNNING:
        raise InvalidTransition(f"expected a new attempt to be running, got {attempt.ref} as {attempt.state}")


def _earned(snapshot: JobSnapshot, change: JobChanges) -> list[AttemptRecord]:
    """What is owed for: at most the price of the assignment, for what ends with an acceptance in this very write."""
    ends = {attempt.ref: attempt for attempt in change.attempts}
    done = {ref.task for ref, attempt in ends.items() if attempt.state is AttemptState.ACCEPTED}
    refs = [attempt.ref for attempt in change.earned]
    if len(set(refs)) < len(refs) or not all(ref in ends and ref.task in done for ref in refs):
        raise InvalidTransition(f"expected to owe for attempts that end by this write, each once, got {refs}")
    for ref in refs:
        old, end = snapshot.attempt(ref), ends[ref]
        if old is None or not _is_fair(end.state, end.earned, old.price):
            raise InvalidTransition(f"expected to owe the price of {ref} or a part of it, got {end.earned} wei")
    return [ends[ref] for ref in refs]


def _is_fair(state: AttemptState, earned: int, price: int) -> bool:
    return earned == price if state is AttemptState.ACCEPTED else 0 <= earned <= price


def _write_states(connection: Connection, changes: Sequence[JobChanges]) -> None:
    job_rows = [
        {
            "of_job": job.id,
            "state": job.state,
            "price": job.price,
            "finished_at": job.finished_at,
            "failure": job.failure,
        }
        for job in (change.job for change in changes)
        if job is not None
    ]
    task_rows = [
        {"of_task": task.id, "state": task.state, "not_before": task.not_before}
        for change in changes
        for task in change.tasks
    ]
    if job_rows:
        connection.execute(_UPDATE_JOB, job_rows)
    if task_rows:
        connection.execute(_UPDATE_TASK, task_rows)


def _move(connection: Connection, moved: Sequence[AttemptRecord]) -> None:
    rows = [
        {
            "of_task": attempt.ref.task,
            "of_number": attempt.ref.number,
            "of_node": attempt.node,
            "state": attempt.state,
            "lease_until": attempt.lease_until,
            "output": attempt.output,
            "failure": attempt.failure,
            "finished_at": attempt.finished_at,
            "earned": attempt.earned,
        }
        for attempt in moved
    ]
    written = connection.execute(_UPDATE_ATTEMPT, rows).rowcount
    if written != len(rows):
        raise StaleAttempt(f"expected {len(rows)} attempts that are not over, got {written}; nothing was written")
    for attempt in moved:
        if attempt.state is AttemptState.ACCEPTED and isinstance(attempt.output, TranscodeOutput | BatchOutput):
            refer(connection, job_of(attempt.ref.task), [file.artifact for file in attempt.output.files])


def _write_tensors(connection: Connection, writes: Writes) -> None:
    """Outputs come with the result, stay with an accepted attempt and go with any other end."""
    given = [tensor_values(a.ref.task, a.ref.number, a.tensors) for a in writes.delivered if a.tensors]
    if given:
        connection.execute(_INSERT_TENSORS, given)
    dropped = [
        {"of_task": a.ref.task, "of_number": a.ref.number}
        for a in writes.moved
        if a.state not in _KEEP_TENSORS and isinstance(a.output, InferenceOutput)
    ]
    if dropped:
        connection.execute(DELETE_TENSORS, dropped)
