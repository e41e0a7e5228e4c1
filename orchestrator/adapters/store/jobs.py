"""Jobs, tasks and attempts."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select, tuple_, update
from sqlalchemy.exc import DBAPIError

from orchestrator.adapters.store.decisions import check, write
from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.preparations import begin_preparation
from orchestrator.adapters.store.queries import insert_tasks, refer
from orchestrator.adapters.store.rows import (
    attempt_record,
    attempt_ref,
    job_record,
    job_values,
    task_record,
    tensor_values,
    tensors_of,
)
from orchestrator.adapters.store.schema import ACTIVE, among, attempts, jobs, tasks, tensors
from orchestrator.adapters.store.snapshots import attempts_at, lock_jobs, output_tensors, snapshots
from orchestrator.adapters.store.webhooks import tell
from orchestrator.core.blame import failed_on
from orchestrator.core.records import AttemptRecord, JobChanges, JobPage, JobSnapshot, Once, ReadyTask, Submission
from orchestrator.ports.store import JobDecision
from tandem.protocol.errors import IdempotencyConflict, NotFound, Unavailable
from tandem.protocol.ids import AttemptRef, index_of, job_of
from tandem.protocol.jobs import AttemptState, JobState, TaskState
from tandem.protocol.tensors import Tensor

_WAITING = among(tasks.c.state, TaskState.WAITING)
_RUNNING = among(attempts.c.state, AttemptState.RUNNING)
_VERIFYING = among(attempts.c.state, AttemptState.VERIFYING)
_ACTIVE = among(attempts.c.state, *ACTIVE)


class SqlJobs:
    """The JobStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def now(self) -> float:
        return self._database.now()

    async def check(self) -> None:
        query = select(jobs.c.id).limit(1)
        try:
            await self._database.write(lambda connection: connection.scalar(query))
        except DBAPIError as error:
            raise Unavailable(f"expected a store that answers, got: {error.orig}; see to the disk") from error

    async def submit(self, submission: Submission) -> str:
        return await self._database.write(lambda connection: _submit(connection, submission))

    async def submitted(self, owner: str, once: Once) -> str | None:
        return await self._database.read(lambda connection: _earlier(connection, owner, once))

    async def job(self, job_id: str) -> JobSnapshot:
        return await self._database.read(lambda connection: _job(connection, job_id))

    async def jobs(
        self, owner: str | None, *, state: JobState | None = None, after: str | None = None, limit: int = 50
    ) -> JobPage:
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if after is not None:
            query = query.where(jobs.c.id < after)

        def page(connection: Connection) -> JobPage:
            found = [job_record(row) for row in connection.execute(query)]
            cursor = found[limit - 1].id if len(found) > limit else None
            return JobPage(tuple(snapshots(connection, found[:limit])), cursor)

        return await self._database.read(page)

    async def decide(self, jobs: Sequence[str], decision: JobDecision) -> list[JobChanges]:
        if len(set(jobs)) < len(jobs):
            raise ValueError(f"expected each job once, got {list(jobs)}")

        def run(connection: Connection) -> list[JobChanges]:
            found = lock_jobs(connection, jobs)
            now = self._database.now()
            changes = [decision(snapshot, now) for snapshot in found]
            write(connection, check(found, changes), now)
            return changes

        return await self._database.write(run)

    async def ready(self, limit: int, after: str | None = None) -> list[ReadyTask]:
        now = self._database.now()
        return await self._database.read(lambda connection: _ready(connection, now, limit, after))

    async def next_ready_at(self) -> float | None:
        query = select(func.min(tasks.c.not_before)).where(_WAITING, tasks.c.not_before > self._database.now())
        return await self._database.read(lambda connection: connection.scalar(query))

    async def inputs(self, task_id: str) -> tuple[Tensor, ...]:
        query = select(tensors).where(tensors.c.task == task_id, tensors.c.number == 0)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return () if row is None else tensors_of(row)

    async def attempts_on(self, node: str) -> list[AttemptRecord]:
        query = select(attempts).where(attempts.c.node == node, _ACTIVE).order_by(attempts.c.task)
        return await self._database.read(lambda connection: [attempt_record(row) for row in connection.execute(query)])

    async def verifying(self) -> list[AttemptRecord]:
        return await self._database.read(_verifying)

    async def extend_leases(self, node: str, refs: Sequence[AttemptRef], seconds: float) -> list[AttemptRef]:
        if not refs:
            return []
        named = tuple_(attempts.c.task, attempts.c.number).in_([(ref.task, ref.number) for ref in refs])
        statement = (
            update(attempts)
            .where(attempts.c.node == node, _ACTIVE, named)
            .values(lease_until=self._database.now() + seconds)
            .returning(attempts.c.task, attempts.c.number)
        )
        held = await self._database.write(
            lambda connection: {attempt_ref(row) for row in connection.execute(statement)}
        )
        return [ref for ref in refs if ref not in held]

    async def extend_all_leases(self, seconds: float) -> None:
        statement = update(attempts).where(_RUNNING).values(lease_until=self._database.now() + seconds)
        await self._database.write(lambda connection: connection.execute(statement))

    async def expired(self) -> list[AttemptRef]:
        query = (
            select(attempts.c.task, attempts.c.number)
            .where(_RUNNING, attempts.c.lease_until <= self._database.now())
            .order_by(attempts.c.lease_until)
        )
        return await self._database.read(lambda connection: [attempt_ref(row) for row in connection.execute(query)])


def _submit(connection: Connection, submission: Submission) -> str:
    first = _earlier(connection, submission.job.owner, submission.once) if submission.once else None
    if first is not None:
        return first
    job = submission.job.id
    connection.execute(insert(jobs).values(job_values(submission)))
    insert_tasks(connection, submission.tasks)
    begin_preparation(connection, submission)
    tell(connection, submission.job, submission.job.created_at)
    if submission.inputs:
        connection.execute(insert(tensors).values(tensor_values(submission.tasks[0].id, 0, submission.inputs)))
    refer(connection, job, submission.artifacts)
    return job


def _earlier(connection: Connection, owner: str, once: Once) -> str | None:
    """The job that was already made under the key."""
    key = once.idempotency_key
    query = select(jobs.c.id, jobs.c.request_digest).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = connection.execute(query).one_or_none()
    if row is not None and row.request_digest != once.request_digest:
        raise IdempotencyConflict(
            f"expected the request that made job {row.id} under key {key!r}, got another one: "
            "use a new key for a new job"
        )
    return None if row is None else str(row.id)


def _job(connection: Connection, job_id: str) -> JobSnapshot:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"expected a job of this store, got {job_id}")
    outputs = output_tensors(connection, select(tasks.c.id).where(tasks.c.job == job_id))
    return snapshots(connection, [job_record(row)], outputs)[0]


def _ready(connection: Connection, now: float, limit: int, after: str | None) -> list[ReadyTask]:
    query = (
        select(tasks).where(_WAITING, tasks.c.not_before <= now).order_by(tasks.c.job, tasks.c.position).limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(tasks.c.job, tasks.c.position) > (job_of(after), index_of(after)))
    found = [task_record(row) for row in connection.execute(query)]
    tried = attempts_at(connection, [task.id for task in found])
    return [ReadyTask(task, failed_on(tried[task.id])) for task in found]


def _verifying(connection: Connection) -> list[AttemptRecord]:
    outputs = output_tensors(connection, select(attempts.c.task).where(_ACTIVE, _VERIFYING))
    query = select(attempts).where(_ACTIVE, _VERIFYING).order_by(attempts.c.task)
    return [attempt_record(row, outputs) for row in connection.execute(query)]
