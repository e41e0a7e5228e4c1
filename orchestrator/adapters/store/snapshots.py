"""Jobs as snapshots: loaded with three statements, however many they are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Select, select

from orchestrator.adapters.store.rows import AnyRow, attempt_record, attempt_ref, job_record, task_record, tensors_of
from orchestrator.adapters.store.schema import attempts, jobs, tasks, tensors
from orchestrator.core.records import AttemptRecord, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.errors import NotFound
from tandem.protocol.ids import AttemptRef
from tandem.protocol.tensors import Tensor

Outputs = Mapping[AttemptRef, tuple[Tensor, ...]]


def load_jobs(connection: Connection, ids: Sequence[str], *, lock: bool = False) -> list[JobSnapshot]:
    """The jobs in the order of `ids`, without tensors. `lock`: nobody else decides on them meanwhile.

    Raises NotFound.
    """
    query = select(jobs).where(jobs.c.id.in_(ids))
    found = {row.id: job_record(row) for row in connection.execute(query.with_for_update() if lock else query)}
    missing = [job for job in ids if job not in found]
    if missing:
        raise NotFound(f"expected jobs of this store, got {', '.join(missing)}")
    return snapshots(connection, [found[job] for job in ids])


def snapshots(
    connection: Connection, records: Sequence[JobRecord], outputs: Outputs | None = None
) -> list[JobSnapshot]:
    """Adds to each job its tasks and their attempts."""
    of_job: dict[str, list[TaskRecord]] = defaultdict(list)
    rows = connection.execute(
        select(tasks).where(tasks.c.job.in_([job.id for job in records])).order_by(tasks.c.job, tasks.c.position)
    )
    for row in rows:
        of_job[row.job].append(task_record(row))
    of_task = attempts_by_task(connection, tasks.c.job.in_([job.id for job in records]), outputs)
    return [
        JobSnapshot(
            job=job,
            tasks=tuple(of_job[job.id]),
            attempts=tuple(attempt for task in of_job[job.id] for attempt in of_task.get(task.id, ())),
        )
        for job in records
    ]


def attempts_by_task(
    connection: Connection, which: ColumnElement[bool], outputs: Outputs | None = None
) -> Mapping[str, Sequence[AttemptRecord]]:
    """The attempts of some tasks, in the order of their numbers."""
    found: dict[str, list[AttemptRecord]] = defaultdict(list)
    query = select(attempts).join(tasks, tasks.c.id == attempts.c.task).where(which).order_by(attempts.c.number)
    for row in connection.execute(query):
        found[row.task].append(attempt_record(row, outputs))
    return found


def output_tensors(connection: Connection, of: Select[str]) -> Outputs:
    """The output tensors of the attempts at the tasks whose ids `of` selects."""
    rows: Iterable[AnyRow] = connection.execute(select(tensors).where(tensors.c.task.in_(of), tensors.c.number > 0))
    return {attempt_ref(row): tensors_of(row) for row in rows}
