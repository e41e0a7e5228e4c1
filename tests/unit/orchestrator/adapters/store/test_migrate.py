"""Migrations lead to the tables that the code is written for."""

import logging
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from orchestrator.adapters.store.engine import Database, open_database
from orchestrator.adapters.store.migrate import upgrade
from orchestrator.adapters.store.schema import metadata
from tandem.protocol.errors import ConfigurationError
from tests.fixtures.clock import ManualClock

_DEFINITIONS = text("SELECT type, name, sql FROM sqlite_master WHERE name != 'alembic_version' ORDER BY type, name")


@pytest.fixture
async def empty(url: str, clock: ManualClock) -> AsyncIterator[Database]:
    async with open_database(url, clock) as opened:
        yield opened


def definitions(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """Every table and index with the clauses of its definition, in no particular order."""
    rows = connection.execute(_DEFINITIONS).all()
    return {(row.type, row.name): sorted(line.strip(" ,") for line in (row.sql or "").split("\n")) for row in rows}


async def test_an_empty_database_becomes_what_the_code_expects(empty: Database) -> None:
    await empty.write(upgrade)
    assert await empty.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


async def test_checks_and_partial_indexes_are_the_same_too(
    empty: Database, tmp_path_factory: pytest.TempPathFactory, clock: ManualClock
) -> None:
    await empty.write(upgrade)
    migrated = await empty.read(definitions)
    migrated.pop(("index", "sqlite_autoindex_alembic_version_1"), None)
    async with open_database(f"sqlite:///{tmp_path_factory.mktemp('direct') / 'tandem.db'}", clock) as direct:
        await direct.write(metadata.create_all)
        assert await direct.read(definitions) == migrated


async def test_upgrading_again_changes_nothing_and_says_nothing(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await empty.write(upgrade)
    before, handlers = await empty.read(definitions), list(logging.getLogger().handlers)
    caplog.clear()
    await empty.write(upgrade)
    assert await empty.read(definitions) == before
    assert logging.getLogger().handlers == handlers
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_database_of_a_newer_version_is_refused(empty: Database) -> None:
    await empty.write(upgrade)
    await empty.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigurationError, match=r"9999.*start the version that wrote it"):
        await empty.write(upgrade)
