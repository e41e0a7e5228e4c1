"""Statements that more than one part of the store runs inside its transactions."""

from collections.abc import Iterable, Sequence

from sqlalchemy import BindParameter, Connection, bindparam, delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql

from orchestrator.adapters.store.rows import account_record, account_values, task_values
from orchestrator.adapters.store.schema import accounts, artifacts, files, job_artifacts, tasks
from orchestrator.core.packaging import JobFile
from orchestrator.core.records import AccountRecord, TaskRecord
from tandem.protocol.errors import NotFound

BATCH = 500
"""Values in one list of a query."""
RELEASED = 0.0
"""In place of when an artifact was renewed: its job let go of it, so nobody is about to refer to it."""

_ACCOUNT = select(accounts).where(accounts.c.node == bindparam("node"))
_LOCKED_ACCOUNT = _ACCOUNT.with_for_update()
_COLUMNS: dict[str, BindParameter[object]] = {
    column.name: bindparam(column.name) for column in accounts.columns if not column.primary_key
}
_UPDATE_ACCOUNT = update(accounts).where(accounts.c.node == bindparam("of_node")).values(_COLUMNS)
_INSERT_ACCOUNT = postgresql.insert(accounts).on_conflict_do_nothing()  # SQLite has the same
_EARNED = select(accounts.c.earned).where(accounts.c.node == bindparam("node")).with_for_update()
_UPDATE_EARNED = (
    update(accounts)
    .where(accounts.c.node == bindparam("of_node"))
    .values(earned=bindparam("earned"), active_at=bindparam("active_at"))
)


def load_account(connection: Connection, node: str) -> AccountRecord:
    """To look at; what is to be changed is held first."""
    row = connection.execute(_ACCOUNT, {"node": node}).one_or_none()
    return AccountRecord(node) if row is None else account_record(row)


def hold_account(connection: Connection, node: str) -> AccountRecord:
    """Nobody else changes it until the transaction ends, for which it is made first if it is not there."""
    row = connection.execute(_LOCKED_ACCOUNT, {"node": node}).one_or_none()
    if row is None:
        _make_account(connection, node)
        row = connection.execute(_LOCKED_ACCOUNT, {"node": node}).one()
    return account_record(row)


def save_account(connection: Connection, account: AccountRecord) -> None:
    """Writes one that is held."""
    connection.execute(_UPDATE_ACCOUNT, {"of_node": account.node, **account_values(account)})


def add_earned(connection: Connection, node: str, amount: int, now: float) -> None:
    """What every acceptance does: it leaves the terms alone, which take as long to read and write as all the rest."""
    earned = connection.execute(_EARNED, {"node": node}).scalar_one_or_none()
    if earned is None:
        _make_account(connection, node)
        earned = connection.execute(_EARNED, {"node": node}).scalar_one()
    connection.execute(_UPDATE_EARNED, {"of_node": node, "earned": earned + amount, "active_at": now})


def _make_account(connection: Connection, node: str) -> None:
    """Another transaction may be making it too: this one waits for its end then, and finds it made."""
    connection.execute(_INSERT_ACCOUNT, account_values(AccountRecord(node)))


def insert_tasks(connection: Connection, new: Sequence[TaskRecord]) -> None:
    if new:
        connection.execute(insert(tasks), [task_values(task) for task in new])


def put_files(connection: Connection, job: str, new: Sequence[JobFile]) -> None:
    """Puts files into a job's folder and keeps their artifacts. Raises NotFound if one is gone."""
    for start in range(0, len(new), BATCH):
        batch = new[start : start + BATCH]
        refer(connection, job, [file.artifact for file in batch])
        connection.execute(delete(files).where(files.c.job == job, files.c.path.in_([file.path for file in batch])))
        rows = [{"job": job, "path": f.path, "artifact": f.artifact, "media_type": f.media_type} for f in batch]
        connection.execute(insert(files), rows)


def demand_artifacts(connection: Connection, wanted: Sequence[str]) -> None:
    """Raises NotFound unless the store knows them all."""
    known = connection.scalars(select(artifacts.c.id).where(artifacts.c.id.in_(wanted)))
    missing = set(wanted) - set(known)
    if missing:
        raise NotFound(f"expected artifacts that are stored, got {', '.join(sorted(missing))}: upload again")


def refer(connection: Connection, job: str, wanted: Iterable[str]) -> None:
    """Keeps the artifacts for as long as the job is kept. Raises NotFound if one is gone."""
    ids = sorted(set(wanted))
    if not ids:
        return
    demand_artifacts(connection, ids)
    its = select(job_artifacts.c.artifact).where(job_artifacts.c.job == job, job_artifacts.c.artifact.in_(ids))
    held = set(connection.scalars(its))
    new = [{"job": job, "artifact": artifact} for artifact in ids if artifact not in held]
    if new:
        connection.execute(insert(job_artifacts), new)


def release(connection: Connection, job: str, unneeded: Sequence[str]) -> None:
    """Lets go of artifacts that are not in the job's folder. One that somebody stored again since stays its time."""
    in_folder = exists().where(files.c.job == job, files.c.artifact == job_artifacts.c.artifact)
    for start in range(0, len(unneeded), BATCH):
        batch = unneeded[start : start + BATCH]
        freed = connection.scalars(
            delete(job_artifacts)
            .where(job_artifacts.c.job == job, job_artifacts.c.artifact.in_(batch), ~in_folder)
            .returning(job_artifacts.c.artifact)
        ).all()
        once = artifacts.c.renewed_at == artifacts.c.created_at
        connection.execute(update(artifacts).where(artifacts.c.id.in_(freed), once).values(renewed_at=RELEASED))
