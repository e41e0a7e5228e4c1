"""Statements that more than one part of the store runs inside its transactions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, insert, select, update

from orchestrator.adapters.store.rows import account_record, account_values
from orchestrator.adapters.store.schema import accounts, artifacts, job_artifacts
from orchestrator.core.records import AccountRecord
from tandem.protocol.errors import NotFound


def upsert(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Writes a row over the one with its primary key, or as a new one."""
    key = and_(*(column == values[column.name] for column in table.primary_key))
    if connection.execute(update(table).where(key).values(values)).rowcount == 0:
        connection.execute(insert(table).values(values))


def load_account(connection: Connection, node: str) -> AccountRecord:
    row = connection.execute(select(accounts).where(accounts.c.node == node).with_for_update()).one_or_none()
    return AccountRecord(node) if row is None else account_record(row)


def save_account(connection: Connection, account: AccountRecord) -> None:
    upsert(connection, accounts, account_values(account))


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
    held = set(connection.scalars(select(job_artifacts.c.artifact).where(job_artifacts.c.job == job)))
    new = [{"job": job, "artifact": artifact} for artifact in ids if artifact not in held]
    if new:
        connection.execute(insert(job_artifacts), new)
