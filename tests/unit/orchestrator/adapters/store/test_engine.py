"""Transactions: who waits, who shares a commit, and what a failure takes with it."""

import asyncio
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from orchestrator.adapters.store.engine import Body, Database, open_database
from orchestrator.adapters.store.jobs import SqlJobs
from orchestrator.adapters.store.schema import api_keys, payments
from tandem.protocol.errors import ConfigurationError, Conflict, Unavailable
from tests.conformance.store.samples import PARAMS
from tests.fixtures.clock import ManualClock


def add(name: str) -> Body[None]:
    def body(connection: Connection) -> None:
        connection.execute(insert(api_keys).values(id=name, name=name, digest=name.encode(), created_at=0))

    return body


def names(connection: Connection) -> list[str]:
    return sorted(connection.scalars(select(api_keys.c.id)))


class Gate:
    """A write that holds the writer's thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.reached.set()
        self.opened.wait(30)


async def test_settings_of_a_connection(database: Database) -> None:
    def read(connection: Connection) -> list[object]:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]

    assert await database.read(read) == ["wal", 2, 1, 10000]
    assert await database.write(read) == ["wal", 2, 1, 10000]


async def test_a_read_does_not_wait_for_a_write_and_sees_nothing_of_it(database: Database) -> None:
    gate = Gate()

    def write(connection: Connection) -> None:
        add("a")(connection)
        gate(connection)

    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(write))
        await asyncio.to_thread(gate.reached.wait)
        assert await database.read(names) == []
        gate.opened.set()
    assert await database.read(names) == ["a"]


async def test_a_read_sees_one_moment(database: Database) -> None:
    gate = Gate()

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        first = names(connection)
        gate(connection)
        return first, names(connection)

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(database.read(twice))
        await asyncio.to_thread(gate.reached.wait)
        await database.write(add("a"))
        gate.opened.set()
    assert reading.result() == ([], [])


async def test_of_writes_that_share_a_commit_each_fails_alone(database: Database) -> None:
    gate = Gate()

    def refused(connection: Connection) -> None:
        add("refused")(connection)
        raise Conflict("no")

    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        outcomes = [group.create_task(_outcome(database, body)) for body in (add("first"), refused, add("third"))]
        await asyncio.sleep(0)
        gate.opened.set()
    assert [type(outcome.result()) for outcome in outcomes] == [type(None), Conflict, type(None)]
    assert await database.read(names) == ["first", "third"]


async def _outcome(database: Database, body: Body[None]) -> Exception | None:
    try:
        await database.write(body)
    except Exception as error:  # noqa: BLE001 - the tests look at what was raised
        return error
    return None


async def test_a_commit_that_fails_is_told_to_everyone_who_shared_it(database: Database) -> None:
    gate = Gate()

    def dangling(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        values = {"params_hash": b"", "first_nonce": 0, "last_nonce": 0}
        connection.execute(insert(payments).values(node="nobody", params=PARAMS, tickets=(), **values))

    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        failing = [group.create_task(_outcome(database, body)) for body in (add("a"), dangling, add("b"))]
        await asyncio.sleep(0)
        gate.opened.set()
    assert {type(task.result()) for task in failing} == {IntegrityError}
    assert await database.read(names) == []
    await database.write(add("later"))
    assert await database.read(names) == ["later"]


async def test_a_write_that_is_cancelled_before_it_begins_never_does(database: Database) -> None:
    gate = Gate()
    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        waiting = group.create_task(database.write(add("cancelled")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
    assert await database.read(names) == []


async def test_a_write_that_is_cancelled_after_it_began_is_whole(database: Database) -> None:
    gate = Gate()

    def write(connection: Connection) -> None:
        add("a")(connection)
        gate(connection)
        add("b")(connection)

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(database.write(write))
        await asyncio.to_thread(gate.reached.wait)
        writing.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
    await database.write(add("c"))
    assert await database.read(names) == ["a", "b", "c"]


async def test_another_process_that_writes_is_waited_for(url: str, database: Database, clock: ManualClock) -> None:
    gate = Gate()
    async with open_database(url, clock) as other, asyncio.TaskGroup() as group:
        group.create_task(other.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        group.create_task(database.write(add("a")))
        group.create_task(database.write(add("b")))
        gate.opened.set()
    assert await database.read(names) == ["a", "b"]


async def test_sigkill_in_the_middle_of_a_transaction(url: str, clock: ManualClock) -> None:
    module = "tests.unit.orchestrator.adapters.store.stopping"
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, url, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert [await child.stdout.readline() for _ in range(2)] == [b"first\n", b"stopped\n"]
    child.kill()
    await child.communicate()
    async with open_database(url, clock) as database:
        assert await database.read(names) == ["first"]
        await database.write(add("second"))


async def test_the_stores_time_is_the_clocks(database: Database, clock: ManualClock) -> None:
    clock.advance(3)
    assert database.now() == clock.now()


async def test_a_store_that_cannot_be_read_says_so(database: Database) -> None:
    store = SqlJobs(database)
    await store.check()
    await database.write(lambda connection: connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone"))
    with pytest.raises(Unavailable, match="no such table"):
        await store.check()


BAD_URLS = ["not a url", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://user:hunter2@host/db"]


@pytest.mark.parametrize("bad", BAD_URLS)
async def test_a_url_that_names_no_file_is_a_configuration_error(bad: str, clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="expected a store like sqlite:") as raised:
        async with open_database(bad, clock):
            pass
    assert "hunter2" not in str(raised.value)


async def test_a_file_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="unable to open"):
        async with open_database(f"sqlite:///{tmp_path / 'missing' / 'tandem.db'}", clock):
            pass
