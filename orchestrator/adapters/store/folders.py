"""What is put together from the results of tasks: packages, and the files of jobs."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.queries import put_files
from orchestrator.adapters.store.rows import AnyRow
from orchestrator.adapters.store.schema import artifacts, files, jobs, packages, tasks
from orchestrator.core.packaging import JobFile, Package
from tandem.protocol.errors import Conflict
from tandem.protocol.jobs import JOB_TRANSITIONS, is_final

_FILES = select(files.c.path, files.c.artifact, files.c.media_type, artifacts.c.size).join(
    artifacts, artifacts.c.id == files.c.artifact
)


class SqlFolders:
    """The FolderStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_packages(self, job: str, new: Sequence[Package], content: Sequence[JobFile]) -> None:
        await self._database.write(lambda connection: _add(connection, job, new, content))

    async def packages(self, job: str) -> list[Package]:
        query = select(packages.c.package).join(tasks, tasks.c.id == packages.c.task).where(tasks.c.job == job)
        return await self._database.read(lambda connection: list(connection.scalars(query)))

    async def file(self, job: str, path: str) -> JobFile | None:
        query = _FILES.where(files.c.job == job, files.c.path == path)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _file(row)

    async def files(self, job: str) -> list[JobFile]:
        query = _FILES.where(files.c.job == job).order_by(files.c.path)
        return await self._database.read(lambda connection: [_file(row) for row in connection.execute(query)])


def _add(connection: Connection, job: str, new: Sequence[Package], content: Sequence[JobFile]) -> None:
    state = connection.scalar(select(jobs.c.state).where(jobs.c.id == job).with_for_update())
    if state is None or is_final(JOB_TRANSITIONS, state):
        raise Conflict(f"expected a job that goes on, {job} is {state}")
    tasks_of = {each.task for each in new}
    query = select(packages.c.task, packages.c.name).where(packages.c.task.in_(tasks_of))
    known = {(row.task, row.name) for row in connection.execute(query)}
    rows = [
        {"task": each.task, "name": each.name, "package": each} for each in new if (each.task, each.name) not in known
    ]
    put_files(connection, job, content)
    if rows:
        connection.execute(insert(packages), rows)


def _file(row: AnyRow) -> JobFile:
    return JobFile(path=row.path, artifact=row.artifact, media_type=row.media_type, size=row.size)
