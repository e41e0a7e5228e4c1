"""Jobs whose results are being written to URLs of their submitters."""

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, update

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.rows import export_record
from orchestrator.adapters.store.schema import exports, jobs
from orchestrator.core.records import ExportRecord, JobRecord
from tandem.protocol.jobs import JobState, uploads_of


class SqlExports:
    """The part of the store's JobStore that is about exports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def exports(self, limit: int = 50, without: Collection[str] = ()) -> list[ExportRecord]:
        query = _EXPORTS.where(exports.c.open.is_(True), jobs.c.owner.not_in(without))
        query = query.order_by(exports.c.not_before, exports.c.job).limit(limit)
        return await self._database.read(lambda connection: [export_record(row) for row in connection.execute(query)])

    async def export(self, job_id: str) -> ExportRecord | None:
        query = _EXPORTS.where(exports.c.job == job_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else export_record(row)

    async def save_export(self, record: ExportRecord) -> None:
        statement = (
            update(exports)
            .where(exports.c.job == record.job)
            .values(tries=record.tries, not_before=record.not_before, written=record.written, error=record.error)
        )
        await self._database.write(lambda connection: connection.execute(statement))


_EXPORTS = select(exports, jobs.c.owner).join(jobs)


def follow_export(connection: Connection, job: JobRecord) -> None:
    """Opens the export of a job that comes to the state, and closes that of one that has left it."""
    if not uploads_of(job.request):
        return
    exporting = job.state is JobState.EXPORTING
    known = connection.execute(update(exports).where(exports.c.job == job.id).values(open=exporting)).rowcount
    if exporting and not known:
        connection.execute(insert(exports).values(job=job.id, open=True, tries=0, not_before=0, written=()))
