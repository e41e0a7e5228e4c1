"""Threads, connections and transactions: the one place that knows which database it is.

A transaction runs as a whole in a thread of its own. A driver that hands every statement to a thread (aiosqlite) was
measured at a seventh of the speed: SQLite answers within microseconds, and the way to the thread and back costs more.

SQLite has one writer at a time. All writes go through one thread, one after the other, each in a transaction that
takes the write lock at its start (`BEGIN IMMEDIATE`), so that no caller ever sees SQLITE_BUSY; reads have threads and
connections of their own and never wait (WAL). `synchronous=FULL`: what was committed survives a power cut, at 0.8 ms a
commit.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from tandem.clock import Clock
from tandem.protocol.errors import ConfigurationError

Result = TypeVar("Result")
Body = Callable[[Connection], Result]
"""The statements of one transaction."""

_READERS = 4
_PRAGMAS = (
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


class _Lane:
    """Some threads, and a connection for each."""

    def __init__(self, url: URL, begin: str, threads: int) -> None:
        self._engine = _engine(url, begin, threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store")

    async def run(self, body: Body[Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, body)

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    def _transact(self, body: Body[Result]) -> Result:
        with self._engine.begin() as connection:
            return body(connection)


class Database:
    """Transactions over one writing connection and a few reading ones.

    A caller that is cancelled leaves a transaction that has begun to its end: it is committed as a whole, or not at all.
    """

    def __init__(self, writer: _Lane, readers: _Lane, clock: Clock) -> None:
        self._writer = writer
        self._readers = readers
        self._clock = clock

    def now(self) -> float:
        """The store's time, in seconds since the epoch: the given clock's, since SQLite lives in this process."""
        return self._clock.now()

    async def read(self, body: Body[Result]) -> Result:
        """What `body` reads, all of it as of one moment."""
        return await self._readers.run(body)

    async def write(self, body: Body[Result]) -> Result:
        """Commits what `body` writes when it returns; nothing if it raises."""
        return await self._writer.run(body)


@asynccontextmanager
async def open_database(url: str, clock: Clock) -> AsyncIterator[Database]:
    """Raises ConfigurationError if the URL names no SQLite file that can be opened."""
    parsed = _parse(url)
    writer, readers = _Lane(parsed, "BEGIN IMMEDIATE", 1), _Lane(parsed, "BEGIN", _READERS)
    try:
        await _probe(writer, parsed)
        yield Database(writer, readers, clock)
    finally:
        await asyncio.to_thread(readers.close)
        await asyncio.to_thread(writer.close)


def _parse(url: str) -> URL:
    expected = "expected a store like sqlite:////var/lib/tandem/tandem.db"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"{expected}, got {url!r}") from error
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(f"{expected}, got {parsed!r}")
    return parsed.set(drivername="sqlite")


async def _probe(lane: _Lane, url: URL) -> None:
    try:
        await lane.run(lambda connection: connection.exec_driver_sql("SELECT 1"))
    except OperationalError as error:
        raise ConfigurationError(
            f"expected to open the store at {url!r}, got {error.orig}: check the folder and its permissions"
        ) from error


def _engine(url: URL, begin: str, connections: int) -> Engine:
    engine = create_engine(url, pool_size=connections, max_overflow=0)

    # The driver's own idea of when to begin is switched off, as SQLAlchemy's manual shows for SQLite.
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
