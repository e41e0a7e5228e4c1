"""On-line usage: windows that are owed, and sums by day."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby, islice

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.ledger import use
from orchestrator.adapters.store.rows import AnyRow
from orchestrator.adapters.store.schema import usage, windows
from orchestrator.core.records import UsagePage, UsageRecord, UsageShare, UsageWindowRecord

_BATCH = 1000
_CURSOR_PARTS = 3
_KEY = (usage.c.owner, usage.c.day, usage.c.model, usage.c.version, usage.c.node)
_SHARE = (
    select(usage.c.requests, usage.c.price)
    .where(*(column == bindparam(f"of_{column.name}") for column in _KEY))
    .with_for_update()
)
_MAKE_SHARE = postgresql.insert(usage).on_conflict_do_nothing()  # SQLite has the same
_ADD_TO_SHARE = (
    update(usage)
    .where(*(column == bindparam(f"of_{column.name}") for column in _KEY))
    .values(requests=bindparam("requests"), price=bindparam("price"))
)
_BY_NODE = select(usage.c.node, usage.c.price)
_KNOWN = select(windows.c.id).where(windows.c.id == bindparam("of_id"))


class SqlUsage:
    """The UsageStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle_usage(self, new: Sequence[UsageWindowRecord]) -> None:
        def run(connection: Connection) -> None:
            now = self._database.now()
            for window in sorted(new, key=lambda each: each.node):  # as all do: none waits for one that waits for it
                if connection.execute(_KNOWN, {"of_id": window.id}).one_or_none() is None:
                    _settle(connection, now, window)

        await self._database.write(run)

    async def open_windows(self, node: str, limit: int) -> list[UsageWindowRecord]:
        query = select(windows).where(windows.c.node == node).order_by(windows.c.id).limit(limit)
        return await self._database.read(
            lambda connection: [
                UsageWindowRecord(row.id, row.node, requests=row.requests, price=row.price)
                for row in connection.execute(query)
            ]
        )

    async def close_window(self, node: str, window: str) -> None:
        statement = delete(windows).where(windows.c.id == window, windows.c.node == node)
        await self._database.write(lambda connection: connection.execute(statement))

    async def usage(self, owner: str | None, after: str | None = None, limit: int = 50) -> UsagePage:
        query = select(usage).order_by(usage.c.day.desc(), usage.c.model, usage.c.version)
        if owner is not None:
            query = query.where(usage.c.owner == owner)
        if after is not None:
            day, model, version = _parse(after)
            later = or_(usage.c.model > model, (usage.c.model == model) & (usage.c.version > version))
            query = query.where(or_(usage.c.day < day, (usage.c.day == day) & later))

        def run(connection: Connection) -> UsagePage:
            rows = connection.execution_options(yield_per=_BATCH).execute(query)
            found = list(islice(_by_day(rows), limit + 1))
            cursor = _cursor(found[limit - 1]) if len(found) > limit else None
            return UsagePage(tuple(found[:limit]), cursor)

        return await self._database.read(run)


def used_of(connection: Connection) -> dict[str, int]:
    """Wei by node, of all days."""
    found: dict[str, int] = {}
    for rows in connection.execution_options(yield_per=_BATCH).execute(_BY_NODE).partitions():
        for node, price in rows:
            found[node] = found.get(node, 0) + price
    return {node: price for node, price in found.items() if price}


def _settle(connection: Connection, now: float, window: UsageWindowRecord) -> None:
    values = {"id": window.id, "node": window.node, "requests": window.requests, "price": window.price}
    connection.execute(insert(windows), values)
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    for share in sorted(window.shares, key=lambda each: (each.owner, each.model, each.version)):  # all in one order
        _add(connection, day, window.node, share)
    use(connection, now, window)


def _add(connection: Connection, day: str, node: str, share: UsageShare) -> None:
    key = {"owner": share.owner, "day": day, "model": share.model, "version": share.version, "node": node}
    of_key = {f"of_{name}": value for name, value in key.items()}
    before = connection.execute(_SHARE, of_key).one_or_none()
    if before is None:  # another process may be making it too: this one waits for its end then, and finds it made
        connection.execute(_MAKE_SHARE, {**key, "requests": 0, "price": 0})
        before = connection.execute(_SHARE, of_key).one()
    sums = {"requests": before.requests + share.requests, "price": before.price + share.price}
    connection.execute(_ADD_TO_SHARE, {**of_key, **sums})


def _by_day(rows: Iterable[AnyRow]) -> Iterable[UsageRecord]:
    """The rows of one day and model are of several nodes, and for the operator of several owners."""
    for (day, model, version), group in groupby(rows, key=lambda row: (row.day, row.model, row.version)):
        requests = price = 0
        for row in group:
            requests += row.requests
            price += row.price
        yield UsageRecord(day, model, version, requests, price)


def _cursor(record: UsageRecord) -> str:
    return f"{record.day}:{record.model}:{record.version}"


def _parse(cursor: str) -> tuple[str, str, str]:
    parts = cursor.split(":")
    if len(parts) != _CURSOR_PARTS:
        raise ValueError(f"expected the end of a page of usage, got {cursor[:80]!r}")
    return parts[0], parts[1], parts[2]
