"""The tables. What can be said of a state in one row is said here, as a CHECK: a wrong write fails, whoever wrote it.

Amounts are decimal text, since a uint256 fits no SQL integer; sums are made in Python, inside the transaction.
Structured values are JSON text, written and read by pydantic; nothing is asked of their inside in SQL.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
)

from orchestrator.core.ledger import EntryKind
from orchestrator.core.packaging import Package
from orchestrator.core.records import Failure
from tandem.protocol.jobs import JOB_TRANSITIONS, AttemptState, JobRequest, JobState, TaskState, Work, is_final
from tandem.protocol.media import Layout, MediaInfo
from tandem.protocol.messages import SignedTicket
from tandem.protocol.models import ModelInfo
from tandem.protocol.outputs import Output
from tandem.protocol.tensors import TensorMeta
from tandem.protocol.tickets import TicketParams
from tandem.protocol.webhooks import DeliveryStatus


class Json(TypeDecorator[Any]):
    """A value that pydantic knows, as JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        super().__init__()
        self.adapter = adapter

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else self.adapter.dump_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any | None:  # noqa: ARG002
        return None if value is None else self.adapter.validate_json(value)


class WeiText(TypeDecorator[int]):
    """An amount of any size, as decimal text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value)


def _one_of(states: type[StrEnum], name: str = "state") -> Enum:
    return Enum(
        states,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def among(column: Column[Any], *states: StrEnum) -> ColumnElement[bool]:
    """Whether the column is one of the states, which are written out in just the words of the partial indexes.

    An index with a condition serves no query that hides the states in parameters, or says `IN` where it says `=`.
    """
    if len(states) == 1:
        return column == bindparam(None, states[0], column.type, literal_execute=True)
    return column.in_(bindparam(None, states, column.type, expanding=True, literal_execute=True))


def _listed(states: Iterable[StrEnum]) -> str:
    return ", ".join(f"'{state}'" for state in states)


ACTIVE = (AttemptState.RUNNING, AttemptState.VERIFYING)
_OVER = _listed(state for state in JobState if is_final(JOB_TRANSITIONS, state))
_ACTIVE = _listed(ACTIVE)
_DELIVERED = _listed([AttemptState.VERIFYING, AttemptState.ACCEPTED])

_FAILURE = Json(TypeAdapter(Failure))
_PARAMS = Json(TypeAdapter(TicketParams))

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("request", Json(TypeAdapter(JobRequest)), nullable=False),
    Column("state", _one_of(JobState), nullable=False),
    Column("price", WeiText),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("failure", _FAILURE),
    Column("webhook", Text),
    Column("idempotency_key", Text),
    Column("request_digest", LargeBinary, nullable=False),
    UniqueConstraint("owner", "idempotency_key"),
    CheckConstraint(f"(state IN ({_OVER})) = (finished_at IS NOT NULL)", name="over_has_a_time"),
    CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failed_says_why"),
    CheckConstraint("state IN ('preparing', 'failed', 'cancelled') OR price IS NOT NULL", name="prepared_has_a_price"),
    Index(None, "owner", "id"),
    Index(None, "owner", "state", "id"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job", ForeignKey(jobs.c.id), nullable=False),
    Column("position", Integer, nullable=False),
    Column("work", Json(TypeAdapter(Work)), nullable=False),
    Column("state", _one_of(TaskState), nullable=False),
    Column("price", WeiText, nullable=False),
    Column("not_before", Double, nullable=False),
    UniqueConstraint("job", "position"),
)
_WAITING = tasks.c.state == TaskState.WAITING
Index("ix_tasks_ready", tasks.c.job, tasks.c.position, sqlite_where=_WAITING, postgresql_where=_WAITING)
Index("ix_tasks_backing_off", tasks.c.not_before, sqlite_where=_WAITING, postgresql_where=_WAITING)

attempts = Table(
    "attempts",
    metadata,
    Column("task", ForeignKey(tasks.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("node", Text, nullable=False),
    Column("state", _one_of(AttemptState), nullable=False),
    Column("price", WeiText, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("output", Json(TypeAdapter(Output))),
    Column("failure", _FAILURE),
    Column("finished_at", Double),
    Column("lane", Integer, nullable=False, server_default="0"),
    Column("earned", WeiText, nullable=False, server_default="0"),
    CheckConstraint("number >= 1", name="number_from_one"),
    CheckConstraint("lane IN (0, 1)", name="two_lanes"),
    CheckConstraint("earned = '0' OR state IN ('accepted', 'cancelled')", name="earned_at_its_end"),
    CheckConstraint(f"(state IN ({_ACTIVE})) = (finished_at IS NULL)", name="over_has_a_time"),
    CheckConstraint(f"state NOT IN ({_DELIVERED}) OR output IS NOT NULL", name="delivered_has_output"),
    CheckConstraint(
        "state NOT IN ('rejected', 'failed', 'expired', 'returned') OR failure IS NOT NULL", name="failed_says_why"
    ),
)
_IS_ACTIVE = attempts.c.state.in_(ACTIVE)
_IS_RUNNING = attempts.c.state == AttemptState.RUNNING
_IS_ACCEPTED = attempts.c.state == AttemptState.ACCEPTED
_LANE = (attempts.c.task, attempts.c.lane)
Index("ix_attempts_active", *_LANE, unique=True, sqlite_where=_IS_ACTIVE, postgresql_where=_IS_ACTIVE)
Index("ix_attempts_accepted", attempts.c.task, unique=True, sqlite_where=_IS_ACCEPTED, postgresql_where=_IS_ACCEPTED)
Index("ix_attempts_node", attempts.c.node, sqlite_where=_IS_ACTIVE, postgresql_where=_IS_ACTIVE)
Index("ix_attempts_lease", attempts.c.lease_until, sqlite_where=_IS_RUNNING, postgresql_where=_IS_RUNNING)

tensors = Table(
    "tensors",
    metadata,
    Column("task", ForeignKey(tasks.c.id), primary_key=True),
    Column("number", Integer, primary_key=True, comment="of the attempt whose output it is; 0: the task's input"),
    Column("metas", Json(TypeAdapter(tuple[TensorMeta, ...])), nullable=False),
    Column("data", LargeBinary, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("node", Text, primary_key=True),
    Column("earned", WeiText, nullable=False),
    Column("issued", WeiText, nullable=False),
    Column("refused", WeiText, nullable=False),
    Column("params", _PARAMS),
    Column("next_nonce", BigInteger, nullable=False),
    Column("redeemed", WeiText, nullable=False, server_default="0"),
    Column("unissued", WeiText, nullable=False, server_default="0"),
    Column("active_at", Double),
    CheckConstraint("next_nonce BETWEEN 0 AND 4294967296", name="nonce_is_uint32"),
)

payments = Table(
    "payments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node", ForeignKey(accounts.c.node), nullable=False),
    Column("params", _PARAMS, nullable=False),
    Column("tickets", Json(TypeAdapter(tuple[SignedTicket, ...])), nullable=False),
    Column("receipt", Boolean),
    Column("failure", _FAILURE),
    Column("params_hash", LargeBinary, nullable=False),
    Column("first_nonce", BigInteger, nullable=False),
    Column("last_nonce", BigInteger, nullable=False),
    CheckConstraint("(receipt IS NOT NULL AND NOT receipt) = (failure IS NOT NULL)", name="refused_says_why"),
    CheckConstraint("first_nonce <= last_nonce", name="nonces_in_order"),
    UniqueConstraint("node", "params_hash", "first_nonce"),
    Index(None, "node", "receipt", "id"),
    sqlite_autoincrement=True,
)

entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", _one_of(EntryKind, "kind"), nullable=False),
    Column("debit", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("amount", WeiText, nullable=False),
    Column("reference", Text, nullable=False, comment="what it records; see orchestrator/core/ledger.py"),
    UniqueConstraint("kind", "reference"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("amount NOT LIKE '-%' AND amount <> '0'", name="amount_positive"),
    sqlite_autoincrement=True,
)

windows = Table(
    "windows",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("price", WeiText, nullable=False),
    CheckConstraint("requests > 0", name="not_empty"),
    Index(None, "node", "id"),
    comment="of on-line usage, owed and not answered by the node",
)

usage = Table(
    "usage",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("node", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("price", WeiText, nullable=False),
    Index(None, "day", "model", "version"),
    comment="accepted on-line work, added up by day",
)

chain_cursors = Table(
    "chain_cursors",
    metadata,
    Column("source", Text, primary_key=True),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("balance", WeiText, nullable=False),
    Column("reorganisations", Integer, nullable=False),
)

chain_entries = Table(
    "chain_entries",
    metadata,
    Column("entry", ForeignKey(entries.c.id), primary_key=True),
    Column("source", Text, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("tx_hash", LargeBinary, nullable=False),
    Column("log_index", Integer, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("params_hash", LargeBinary, nullable=False, index=True),
    Column("sender_nonces", Json(TypeAdapter(tuple[int, ...])), nullable=False),
    Column("unissued", WeiText, nullable=False, comment="what of the amount paid for tickets never issued here"),
    Index(None, "source", "block_number"),
    comment="entries that the contract's events wrote and that stand: a block that vanishes takes its rows along",
)

transactions = Table(
    "transactions",
    metadata,
    Column("tx_hash", LargeBinary, primary_key=True),
    Column("account", Text, nullable=False),
    Column("tx_nonce", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("signed_at", Double, nullable=False),
    Index(None, "account", "tx_nonce"),
)

spendings = Table(
    "spendings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("amount", WeiText, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("renewed_at", Double, nullable=False),
    Column("media", Json(TypeAdapter(MediaInfo))),
    Column("keyframes", Json(TypeAdapter(tuple[int, ...])), comment="presentation times in µs; kept beside the media"),
    Column("layout", Json(TypeAdapter(Layout))),
    CheckConstraint("size >= 0", name="size_not_negative"),
)

job_artifacts = Table(
    "job_artifacts",
    metadata,
    Column("job", ForeignKey(jobs.c.id), primary_key=True),
    Column("artifact", ForeignKey(artifacts.c.id), primary_key=True, index=True),
)

files = Table(
    "files",
    metadata,
    Column("job", ForeignKey(jobs.c.id), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("artifact", ForeignKey(artifacts.c.id), nullable=False, index=True),
    Column("media_type", Text, nullable=False),
    comment="what a job's folder holds; its artifacts are in job_artifacts too",
)

packages = Table(
    "packages",
    metadata,
    Column("task", ForeignKey(tasks.c.id), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("package", Json(TypeAdapter(Package)), nullable=False),
)

preparations = Table(
    "preparations",
    metadata,
    Column("job", ForeignKey(jobs.c.id), primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("source", ForeignKey(artifacts.c.id), index=True),
)

exports = Table(
    "exports",
    metadata,
    Column("job", ForeignKey(jobs.c.id), primary_key=True),
    Column("open", Boolean, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("written", Json(TypeAdapter(tuple[str, ...])), nullable=False),
    Column("error", Text),
    Index(None, "open", "job"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("url", Text),
    Column("secret", Text, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("previous", Text),
    Column("previous_until", Double, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("job", ForeignKey(jobs.c.id), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("state", _one_of(JobState), nullable=False),
    Column("at", Double, nullable=False),
    Column("url", Text, nullable=False),
    Column("endpoint", Text, nullable=False, comment="scheme, host and port of the URL"),
    Column("status", _one_of(DeliveryStatus, "status"), nullable=False),
    Column("since", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("delivered_at", Double),
    Column("error", Text),
    CheckConstraint("(status = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_has_a_time"),
    Index(None, "owner", "job", "number"),
)
_IS_PENDING = deliveries.c.status == DeliveryStatus.PENDING
Index("ix_deliveries_due", deliveries.c.not_before, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)
Index("ix_deliveries_pending", deliveries.c.job, unique=True, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)

models = Table(
    "models",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("public", Boolean, nullable=False),
    Column("artifact", ForeignKey(artifacts.c.id), nullable=False, index=True),
    Column("info", Json(TypeAdapter(ModelInfo)), nullable=False),
    Column("revision", Integer, nullable=False, index=True, comment="the catalogue's when it was written last"),
)

model_files = Table(
    "model_files",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("artifact", ForeignKey(artifacts.c.id), primary_key=True, index=True),
    ForeignKeyConstraint(["owner", "name", "version"], ["models.owner", "models.name", "models.version"]),
    comment="external data; their names are in the model's info",
)

catalogue_revision = Table(
    "catalogue_revision",
    metadata,
    Column(
        "number",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="one row, raised by each change",
    ),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)
