"""Migrations lead to the tables that the code is written for."""

import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from io import StringIO
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from orchestrator.adapters.store.accounts import SqlAccounts
from orchestrator.adapters.store.catalogue import SqlCatalogue
from orchestrator.adapters.store.chain import SqlLedger
from orchestrator.adapters.store.engine import Database, open_database
from orchestrator.adapters.store.migrate import upgrade
from orchestrator.adapters.store.migrations.versions import v0003_preparing, v0005_exports
from orchestrator.adapters.store.schema import metadata
from orchestrator.core.ledger import Totals
from tandem.protocol.errors import ConfigurationError
from tests.conformance.store.samples import PARAMS
from tests.fixtures.clock import ManualClock

_DEFINITIONS = text("SELECT type, name, sql FROM sqlite_master WHERE name != 'alembic_version' ORDER BY type, name")


@pytest.fixture
async def empty(url: str, clock: ManualClock) -> AsyncIterator[Database]:
    async with open_database(url, clock) as opened:
        yield opened


def definitions(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """Every table and index with the clauses of its definition, in no particular order."""
    rows = connection.execute(_DEFINITIONS).all()
    return {(row.type, row.name): sorted(clauses(row.sql or "")) for row in rows}


def clauses(sql: str) -> list[str]:
    """What stands between the outermost commas of a definition, or all of it if it has no brackets."""
    begun, _, body = " ".join(sql.replace('"', "").split()).partition("(")
    depth, found = 0, [""]
    for letter in body.rstrip().removesuffix(")"):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [begun.strip(), *(clause.strip() for clause in found)]


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


FIRST_SCHEMA = [
    "INSERT INTO accounts (node, earned, issued, refused, next_nonce) VALUES ('0xa1', '700', '600', '100', 5)",
    "INSERT INTO accounts (node, earned, issued, refused, next_nonce) VALUES ('0xb2', '0', '0', '0', 0)",
    "INSERT INTO payments (id, node, params, tickets) VALUES (41, '0xa1', :params, :tickets)",
]
TICKETS = [{"sender_nonce": nonce, "signature": "00"} for nonce in (3, 4)]


async def test_accounts_of_the_first_schema_open_the_ledger(empty: Database) -> None:
    await empty.write(lambda connection: upgrade(connection, "0001"))
    values = {"params": PARAMS.model_dump_json(), "tickets": json.dumps(TICKETS)}
    for statement in FIRST_SCHEMA:
        bound = text(statement).bindparams(**values) if ":params" in statement else text(statement)
        await empty.write(partial(Connection.execute, statement=bound))
    await empty.write(upgrade)
    balance = (await SqlLedger(empty).books("")).balance
    assert balance.accounts() == ["owed:0xa1", "tickets:0xa1", "work"]
    assert balance.totals("0xa1") == Totals(700, 600, 100)
    assert (await SqlAccounts(empty).account("0xa1")).totals == Totals(700, 600, 100)
    (row,) = await empty.read(lambda c: c.execute(text("SELECT * FROM payments")).all())
    assert (row.id, row.params_hash, row.first_nonce, row.last_nonce) == (41, PARAMS.hash(), 3, 4)


JOB_OF_THE_SECOND_SCHEMA = """
INSERT INTO jobs (id, owner, request, state, price, created_at, request_digest)
VALUES ('j', 'o', '{}', 'queued', '5', 1, x'00');
INSERT INTO tasks (id, job, position, work, state, price, not_before) VALUES ('j.0', 'j', 0, '{}', 'waiting', '5', 0)
"""


async def test_jobs_of_the_second_schema_stay_and_new_ones_may_be_prepared(empty: Database) -> None:
    await empty.write(lambda connection: upgrade(connection, "0002"))
    before = await empty.read(definitions)
    for statement in JOB_OF_THE_SECOND_SCHEMA.split(";"):
        await empty.write(partial(Connection.execute, statement=text(statement)))
    await empty.write(lambda connection: upgrade(connection, "0003"))
    new = text("INSERT INTO jobs SELECT 'k', 'o', '{}', 'preparing', NULL, 1, NULL, NULL, NULL, x'00'")
    await empty.write(partial(Connection.execute, statement=new))
    with pytest.raises(IntegrityError, match="prepared_has_a_price"):
        await empty.write(lambda c: c.execute(text("UPDATE jobs SET state = 'queued' WHERE id = 'k'")))
    assert await empty.read(lambda c: c.execute(text("SELECT id, price FROM jobs")).all()) == [("j", "5"), ("k", None)]
    assert await empty.read(lambda c: c.execute(text("PRAGMA foreign_key_check")).all()) == []
    assert await empty.read(lambda c: c.execute(text("PRAGMA integrity_check")).scalar()) == "ok"
    assert set(await empty.read(definitions)) - set(before) == {
        ("table", "preparations"),
        ("index", "sqlite_autoindex_preparations_1"),
    }


def statements(*revisions: Any) -> str:
    """What these do to a PostgreSQL database."""
    said = StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": said})
    with Operations.context(context):
        for revision in revisions:
            revision.upgrade()
    return said.getvalue()


def test_what_sqlite_has_no_statement_for_is_a_plain_one_elsewhere() -> None:
    said = statements(v0003_preparing, v0005_exports)
    assert "PRAGMA" not in said
    assert "ALTER TABLE jobs ALTER COLUMN price DROP NOT NULL" in said
    states = "'preparing', 'queued', 'running', 'verifying', 'exporting', 'succeeded', 'failed', 'cancelled'"
    assert f"DROP CONSTRAINT ck_jobs_state, ADD CONSTRAINT ck_jobs_state CHECK (state IN ({states}))" in said


async def test_the_database_of_a_newer_version_is_refused(empty: Database) -> None:
    await empty.write(upgrade)
    await empty.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigurationError, match=r"9999.*start the version that wrote it"):
        await empty.write(upgrade)


async def test_models_from_before_they_had_owners_stay_everybodys(empty: Database) -> None:
    def old(connection: Connection) -> None:
        upgrade(connection, "0010")
        info = {"name": "m", "version": "1", "artifact": "sha256:" + "a" * 64, "size": 5, "inputs": [], "outputs": []}
        connection.execute(
            text("INSERT INTO artifacts (id, size, media_type, created_at, renewed_at) VALUES (:id, 5, '', 0, 0)"),
            {"id": info["artifact"]},
        )
        connection.execute(
            text("INSERT INTO models (name, version, artifact, info) VALUES ('m', '1', :artifact, :info)"),
            {"artifact": info["artifact"], "info": json.dumps({**info, "cost_us": 7, "memory": 1})},
        )

    await empty.write(old)
    await empty.write(upgrade)
    (model,) = (await SqlCatalogue(empty).catalogue()).changed
    assert (model.owner, model.public, model.cost_us, model.files) == ("local", True, 7, ())
