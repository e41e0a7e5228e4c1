"""Jobs that are being prepared."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select, update

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.queries import demand_artifacts, refer
from orchestrator.adapters.store.rows import preparation_record
from orchestrator.adapters.store.schema import job_artifacts, jobs, preparations
from orchestrator.core.records import JobChanges, PreparationRecord, Submission
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState, is_final


class SqlPreparations:
    """The part of the store's JobStore that is about preparations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def preparations(self, limit: int = 50, without: Collection[str] = ()) -> list[PreparationRecord]:
        query = select(preparations, jobs.c.owner).join(jobs).where(jobs.c.owner.not_in(without))
        query = query.order_by(preparations.c.not_before, preparations.c.job).limit(limit)
        return await self._database.read(
            lambda connection: [preparation_record(row) for row in connection.execute(query)]
        )

    async def save_preparation(self, record: PreparationRecord) -> None:
        statement = (
            update(preparations)
            .where(preparations.c.job == record.job)
            .values(tries=record.tries, not_before=record.not_before, source=record.source)
        )

        def save(connection: Connection) -> None:
            kept = [] if record.source is None else [record.source]
            demand_artifacts(connection, kept)
            if connection.execute(statement).rowcount:
                refer(connection, record.job, kept)

        await self._database.write(save)


def begin_preparation(connection: Connection, submission: Submission) -> None:
    """If the new job has to be prepared."""
    if submission.job.state is JobState.PREPARING:
        connection.execute(insert(preparations).values(job=submission.job.id, tries=0, not_before=0))


def end_preparation(connection: Connection, change: JobChanges) -> None:
    """Of a job that leaves the state: its preparation goes. One that ends needs no artifact."""
    if change.job is None:
        return
    connection.execute(delete(preparations).where(preparations.c.job == change.job.id))
    if is_final(JOB_TRANSITIONS, change.job.state):
        connection.execute(delete(job_artifacts).where(job_artifacts.c.job == change.job.id))
