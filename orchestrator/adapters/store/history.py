"""What is kept of jobs for a while after their end."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, or_, select

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.queries import BATCH
from orchestrator.adapters.store.schema import among, deliveries, exports, files, job_artifacts, jobs, packages, tasks
from tandem.protocol.jobs import JobState
from tandem.protocol.webhooks import DeliveryStatus

_OVER = among(deliveries.c.status, DeliveryStatus.DELIVERED, DeliveryStatus.FAILED)
_SETTLED = among(jobs.c.state, JobState.SUCCEEDED, JobState.CANCELLED)

DELETE_EVENT = delete(deliveries).where(
    deliveries.c.job == bindparam("of_job"),
    deliveries.c.number == bindparam("of_number"),
    # One that is to be told anew since it was looked for is no longer over. Many rows at once take no list.
    or_(deliveries.c.status == DeliveryStatus.DELIVERED, deliveries.c.status == DeliveryStatus.FAILED),
)


_JOBS_AT_ONCE = 20
"""Of which each may have thousands of files."""


class SqlHistory:
    """The part of the store's JobStore that forgets. It looks in a reader: a writer is there for everybody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def let_go(self, older_than: float) -> int:
        ended = jobs.c.finished_at <= self._database.now() - older_than
        query = select(job_artifacts.c.job).distinct().join(jobs).where(ended).limit(_JOBS_AT_ONCE)
        found = await self._database.read(lambda connection: list(connection.scalars(query)))
        if found:
            await self._database.write(lambda connection: _let_go(connection, found, ended))
        return len(found)

    async def prune(self, older_than: float) -> int:
        ended = jobs.c.finished_at <= self._database.now() - older_than
        newer = deliveries.alias()
        newest = select(func.max(newer.c.number)).where(newer.c.job == deliveries.c.job).scalar_subquery()
        told = (
            select(deliveries.c.job, deliveries.c.number)
            .join(jobs)
            .where(_OVER, ended, _SETTLED | (deliveries.c.number < newest))
            .limit(BATCH)
        )
        written = select(exports.c.job).join(jobs).where(exports.c.open.is_(False), ended, _SETTLED).limit(BATCH)

        def find(connection: Connection) -> tuple[list[tuple[str, int]], list[str]]:
            return [(row.job, row.number) for row in connection.execute(told)], list(connection.scalars(written))

        def forget(connection: Connection) -> None:
            if events:
                connection.execute(DELETE_EVENT, [{"of_job": job, "of_number": number} for job, number in events])
            connection.execute(delete(exports).where(exports.c.job.in_(sent), exports.c.open.is_(False)))

        events, sent = await self._database.read(find)
        if events or sent:
            await self._database.write(forget)
        return len(events) + len(sent)


def _let_go(connection: Connection, found: Sequence[str], ended: ColumnElement[bool]) -> None:
    """Of those that have not been tried again since they were looked for."""
    over = connection.scalars(select(jobs.c.id).where(jobs.c.id.in_(found), ended).with_for_update()).all()
    cut = select(tasks.c.id).where(tasks.c.job.in_(over))
    connection.execute(delete(packages).where(packages.c.task.in_(cut)))
    connection.execute(delete(files).where(files.c.job.in_(over)))
    connection.execute(delete(job_artifacts).where(job_artifacts.c.job.in_(over)))
