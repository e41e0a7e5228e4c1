"""Jobs as snapshots: loaded with three statements, however many they are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, select

from orchestrator.adapters.store.rows import AnyRow, attempt_record, attempt_ref, job_record, task_record, tensors_of
from orchestrator.adapters.store.schema import attempts, jobs, tasks, tensors
from orchestrator.core.records import AttemptRecord, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.errors import NotFound
from tandem.protocol.ids import AttemptRef
from tandem.protocol.tensors import Tensor

Outputs = Mapping[AttemptRef, tuple[Tensor, ...]]

_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_JOBS = select(jobs).where(jobs.c.id.in_(_IDS)).with_for_update()
_TASKS = select(tasks).where(tasks.c.job.in_(_IDS)).order_by(tasks.c.job, tasks.c.position)
_ATTEMPTS = select(attempts).order_by(attempts.c.number)
_ATTEMPTS_OF_JOBS = _ATTEMPTS.join(tasks, tasks.c.id == attempts.c.task).where(tasks.c.job.in_(_IDS))
_ATTEMPTS_OF_TASKS = _ATTEMPTS.where(attempts.c.task.in_(_IDS))


def lock_jobs(connection: Connection, ids: Sequence[str]) -> list[JobSnapshot]:
    """The jobs in the order of `ids`, without tensors; nobody else decides on them meanwhile. Raises NotFound."""
    found = {row.id: job_record(row) for row in connection.execute(_JOBS, {"ids": ids})}
    missing = [job for job in ids if job not in found]
    if missing:
        raise NotFound(f"expected jobs of this store, got {', '.join(missing)}")
    return snapshots(connection, [found[job] for job in ids])


def snapshots(
    connection: Connection, records: Sequence[JobRecord], outputs: Outputs | None = None
) -> list[JobSnapshot]:
    """Adds to each job its tasks and their attempts."""
    ids = [job.id for job in records]
    of_job: dict[str, list[TaskRecord]] = defaultdict(list)
    for row in connection.execute(_TASKS, {"ids": ids}):
        of_job[row.job].append(task_record(row))
    of_task = _by_task(connection, _ATTEMPTS_OF_JOBS, ids, outputs)
    return [
        JobSnapshot(
            job=job,
            tasks=tuple(of_job[job.id]),
            attempts=tuple(attempt for task in of_job[job.id] for attempt in of_task[task.id]),
        )
        for job in records
    ]


def attempts_at(connection: Connection, task_ids: Sequence[str]) -> Mapping[str, Sequence[AttemptRecord]]:
    """The attempts at each task, in the order of their numbers."""
    return _by_task(connection, _ATTEMPTS_OF_TASKS, task_ids)


def output_tensors(connection: Connection, of: Select[str]) -> Outputs:
    """The output tensors of the attempts at the tasks whose ids `of` selects."""
    rows: Iterable[AnyRow] = connection.execute(select(tensors).where(tensors.c.task.in_(of), tensors.c.number > 0))
    return {attempt_ref(row): tensors_of(row) for row in rows}


def _by_task(
    connection: Connection, query: Select[*tuple[Any, ...]], ids: Sequence[str], outputs: Outputs | None = None
) -> Mapping[str, Sequence[AttemptRecord]]:
    found: dict[str, list[AttemptRecord]] = defaultdict(list)
    for row in connection.execute(query, {"ids": ids}):
        found[row.task].append(attempt_record(row, outputs))
    return found
