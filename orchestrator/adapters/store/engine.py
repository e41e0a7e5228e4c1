"""Threads, connections and transactions: the one place that knows which database it is.

A transaction runs as a whole in a thread. A driver that hands every single statement to a thread (aiosqlite) was
measured at an eighth of the speed: SQLite answers within microseconds, the way to a thread and back takes longer.

SQLite has one writer at a time. All writes go through one thread and one connection, in transactions that take the
write lock at their start (`BEGIN IMMEDIATE`), so that no caller ever sees SQLITE_BUSY; reads have threads and
connections of their own and never wait (WAL). `synchronous=FULL`: what was committed survives a power cut. Its price
is 0.7 ms a commit; writes that wait at the same time share one (group commit), which doubles the rate under load.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from tandem.clock import Clock
from tandem.protocol.errors import ConfigurationError

Result = TypeVar("Result")
Body = Callable[[Connection], Result]
"""The statements of one transaction."""

_READERS = 4
_GROUP = 32
"""The most writes that share a commit: a bound on how long the first of them waits for the last."""
_PRAGMAS = (
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


class Readers:
    """Threads with a connection each."""

    def __init__(self, url: URL, *, read_only: bool = False) -> None:
        pragmas = (*_PRAGMAS, "PRAGMA query_only = ON") if read_only else _PRAGMAS
        self._engine = _engine(url, "BEGIN", _READERS, pragmas)
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")

    async def run(self, body: Body[Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, body)

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    def _read(self, body: Body[Result]) -> Result:
        with self._engine.begin() as connection:
            return body(connection)


class _Writer:
    """One thread with one connection. Whatever waits when it begins is one transaction, with a savepoint each."""

    def __init__(self, url: URL) -> None:
        self._engine = _engine(url, "BEGIN IMMEDIATE", 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._waiting: deque[tuple[Body[Any], Future[Any]]] = deque()

    async def run(self, body: Body[Result]) -> Result:
        done: Future[Result] = Future()
        self._waiting.append((body, done))
        self._thread.submit(self._write_waiting)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        self._thread.shutdown()
        self._engine.dispose()

    def _write_waiting(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
        wanted = [(body, done) for body, done in batch if done.set_running_or_notify_cancel()]
        if not wanted:
            return
        try:
            with self._engine.begin() as connection:
                answers = [_answer(connection, body, done) for body, done in wanted]
        except Exception as error:  # noqa: BLE001 - nothing was committed: each caller is told why
            answers = [partial(done.set_exception, error) for _, done in wanted]
        for answer in answers:
            answer()


def _answer(connection: Connection, body: Body[Result], done: Future[Result]) -> Callable[[], None]:
    """What to tell the caller once the whole is committed; a body that raises takes back its own writes alone."""
    try:
        with connection.begin_nested():
            return partial(done.set_result, body(connection))
    except Exception as error:  # noqa: BLE001 - it is raised where the body came from
        return partial(done.set_exception, error)


class Database:
    """Transactions over one writing connection and a few reading ones.

    A caller that is cancelled leaves a write that has begun to its end: it is committed as a whole, or not at all.
    """

    def __init__(self, writer: _Writer, readers: Readers, clock: Clock) -> None:
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
async def open_reader(url: str) -> AsyncIterator[Readers]:
    """For a look from outside, also while a process is at work: writes nothing, and makes no database.

    Raises ConfigurationError if the URL names no SQLite file that is there.
    """
    parsed = _parse(url)
    if not await asyncio.to_thread(Path(parsed.database or "").exists):
        raise ConfigurationError(f"expected a store at {parsed.database}, found none: start the orchestrator first")
    readers = Readers(parsed, read_only=True)
    try:
        yield readers
    finally:
        await asyncio.to_thread(readers.close)


@asynccontextmanager
async def open_database(url: str, clock: Clock) -> AsyncIterator[Database]:
    """Raises ConfigurationError if the URL names no SQLite file that can be opened."""
    parsed = _parse(url)
    writer, readers = _Writer(parsed), Readers(parsed)
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


async def _probe(writer: _Writer, url: URL) -> None:
    try:
        await writer.run(lambda connection: connection.exec_driver_sql("SELECT 1"))
    except OperationalError as error:
        raise ConfigurationError(
            f"expected to open the store at {url!r}, got {error.orig}: check the folder and its permissions"
        ) from error


def _engine(url: URL, begin: str, connections: int, pragmas: Sequence[str] = _PRAGMAS) -> Engine:
    engine = create_engine(url, pool_size=connections, max_overflow=0)

    # The driver's own idea of when to begin is switched off, as SQLAlchemy's manual shows for SQLite.
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
