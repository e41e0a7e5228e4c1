"""Rules that the tables hold, whoever writes; and indexes that the queries use."""

from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from orchestrator.adapters.store import decisions, history
from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.jobs import _ACTIVE, _RUNNING, _WAITING
from orchestrator.adapters.store.rows import attempt_values, job_values, task_values
from orchestrator.adapters.store.schema import accounts, artifacts, attempts, entries, jobs, payments, tasks
from orchestrator.core.records import AttemptRecord
from tandem.protocol.jobs import AttemptState, JobState
from tests.conformance.store.samples import LOST, PARAMS, RESULT, inference, ref_of

JOB = inference()
RUNNING = AttemptRecord(ref_of(JOB), "node", AttemptState.RUNNING, 5, started_at=1, lease_until=2)


def fill(connection: Connection) -> None:
    """A job with a running attempt, and an account."""
    connection.execute(insert(jobs).values(job_values(JOB)))
    connection.execute(insert(tasks).values(task_values(JOB.tasks[0])))
    connection.execute(insert(attempts).values(attempt_values(RUNNING)))
    zeroes = {"earned": 0, "issued": 0, "refused": 0, "next_nonce": 0}
    connection.execute(insert(accounts).values(node="node", **zeroes))
    nonces = {"params_hash": PARAMS.hash(), "first_nonce": 0, "last_nonce": 1}
    connection.execute(insert(payments).values(node="node", params=PARAMS, tickets=(), **nonces))
    connection.execute(insert(entries).values(at=0, kind="earned", debit="a", credit="b", amount=1, reference="x"))


BROKEN = [
    (jobs, {"finished_at": 1.0}, "over_has_a_time"),
    (jobs, {"state": "succeeded"}, "over_has_a_time"),
    (jobs, {"state": "failed", "finished_at": 1.0}, "failed_says_why"),
    (jobs, {"failure": LOST}, "failed_says_why"),
    (jobs, {"price": None}, "prepared_has_a_price"),
    (attempts, {"finished_at": 1.0}, "over_has_a_time"),
    (attempts, {"state": "expired", "failure": LOST}, "over_has_a_time"),
    (attempts, {"state": "expired", "finished_at": 1.0}, "failed_says_why"),
    (attempts, {"state": "verifying"}, "delivered_has_output"),
    (attempts, {"state": "accepted", "finished_at": 1.0}, "delivered_has_output"),
    (attempts, {"number": 0}, "number_from_one"),
    (attempts, {"task": "unknown"}, "FOREIGN KEY"),
    (accounts, {"next_nonce": -1}, "nonce_is_uint32"),
    (accounts, {"node": "renamed"}, "FOREIGN KEY"),
    (payments, {"receipt": False}, "refused_says_why"),
    (payments, {"receipt": True, "failure": LOST}, "refused_says_why"),
    (payments, {"first_nonce": 2}, "nonces_in_order"),
    (entries, {"amount": 0}, "amount_positive"),
    (entries, {"amount": -1}, "amount_positive"),
    (entries, {"debit": "b"}, "two_accounts"),
]


@pytest.mark.parametrize(("table", "values", "rule"), BROKEN)
async def test_a_row_that_breaks_a_rule_is_refused(
    database: Database, table: Table, values: dict[str, Any], rule: str
) -> None:
    await database.write(fill)
    with pytest.raises(IntegrityError, match=rule):
        await database.write(lambda connection: connection.execute(update(table).values(values)))


@pytest.mark.parametrize("table", ["jobs", "tasks", "attempts"])
async def test_an_unknown_state_is_refused(database: Database, table: str) -> None:
    await database.write(fill)
    with pytest.raises(IntegrityError, match="CHECK"):
        await database.write(lambda connection: connection.execute(text(f"UPDATE {table} SET state = 'lost'")))  # noqa: S608


async def test_a_lane_of_a_task_has_one_active_attempt(database: Database) -> None:
    await database.write(fill)
    second = {**attempt_values(RUNNING), "number": 2}
    with pytest.raises(IntegrityError, match="UNIQUE"):
        await database.write(lambda connection: connection.execute(insert(attempts).values(second)))


async def test_a_task_has_one_accepted_attempt(database: Database) -> None:
    def both(connection: Connection) -> None:
        fill(connection)
        done = {"state": "accepted", "finished_at": 1.0, "output": RESULT}
        connection.execute(update(attempts).values(done))
        connection.execute(insert(attempts).values({**attempt_values(RUNNING), "number": 2, **done}))

    with pytest.raises(IntegrityError, match="UNIQUE"):
        await database.write(both)


READY = select(tasks).where(_WAITING, tasks.c.not_before <= 5).order_by(tasks.c.job, tasks.c.position).limit(10)
PLANS = [
    (READY, "ix_tasks_ready"),
    (select(tasks.c.not_before).where(_WAITING, tasks.c.not_before > 5), "ix_tasks_backing_off"),
    (select(attempts).where(attempts.c.node == "node", _ACTIVE), "ix_attempts_node"),
    (select(attempts).where(_RUNNING, attempts.c.lease_until <= 5), "ix_attempts_lease"),
    (select(jobs).where(jobs.c.owner == "local", jobs.c.id < "z").order_by(jobs.c.id.desc()), "ix_jobs_owner_id"),
    (
        select(jobs).where(jobs.c.owner == "o", jobs.c.state == JobState.QUEUED).order_by(jobs.c.id.desc()),
        "ix_jobs_owner_state_id",
    ),
    (select(payments).where(payments.c.node == "n", payments.c.receipt.is_(None)), "ix_payments_node_receipt_id"),
]


async def plan(database: Database, query: Any) -> str:
    def explain(connection: Connection) -> str:
        compiled = query.compile(connection, compile_kwargs={"render_postcompile": True})
        positional = tuple(compiled.params[name] for name in compiled.positiontup or ())
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", positional)
        return "\n".join(row.detail for row in rows)

    return await database.read(explain)


@pytest.mark.parametrize(("query", "index"), PLANS, ids=[index for _, index in PLANS])
async def test_a_query_uses_its_index_and_sorts_nothing(database: Database, query: Any, index: str) -> None:
    found = await plan(database, query)
    assert index in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize(
    "query", [history.DELETE_EVENT, decisions.DELETE_TENSORS, delete(artifacts).where(artifacts.c.id == "x")]
)
async def test_what_goes_is_found_by_its_key_and_so_is_what_may_refer_to_it(database: Database, query: Any) -> None:
    """A thousand artifacts took half a minute, and nothing else was written meanwhile."""
    assert "SCAN" not in await plan(database, query)
