"""First schema"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _api_keys()
    _artifacts()
    _models()
    _jobs()
    _tasks()
    _job_artifacts()
    _attempts()
    _tensors()
    _accounts()
    _payments()


def _state(table: str, *states: str) -> sa.Column[str]:
    kind = sa.Enum(*states, name=op.f(f"ck_{table}_state"), native_enum=False, create_constraint=True, length=16)
    return sa.Column("state", kind, nullable=False)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("renewed_at", sa.Double(), nullable=False),
        sa.Column("media", sa.Text()),
        sa.CheckConstraint("size >= 0", name=op.f("ck_artifacts_size_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_models_artifact")),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_artifact"), "models", ["artifact"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        _state("jobs", "queued", "running", "verifying", "succeeded", "failed", "cancelled"),
        sa.Column("price", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double()),
        sa.Column("failure", sa.Text()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name=op.f("ck_jobs_failed_says_why")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_over_has_a_time"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("owner", "idempotency_key", name=op.f("uq_jobs_owner_idempotency_key")),
    )
    op.create_index(op.f("ix_jobs_owner_id"), "jobs", ["owner", "id"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        _state("tasks", "waiting", "active", "done", "failed", "cancelled"),
        sa.Column("price", sa.Text(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_tasks_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("job", "position", name=op.f("uq_tasks_job_position")),
    )
    op.create_index("ix_tasks_backing_off", "tasks", ["not_before"], **_where("state = 'waiting'"))
    op.create_index("ix_tasks_ready", "tasks", ["job", "position"], **_where("state = 'waiting'"))


def _job_artifacts() -> None:
    op.create_table(
        "job_artifacts",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_job_artifacts_artifact")),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_artifacts_job")),
        sa.PrimaryKeyConstraint("job", "artifact", name=op.f("pk_job_artifacts")),
    )
    op.create_index(op.f("ix_job_artifacts_artifact"), "job_artifacts", ["artifact"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        _state(
            "attempts", "running", "verifying", "accepted", "rejected", "failed", "expired", "returned", "cancelled"
        ),
        sa.Column("price", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("output", sa.Text()),
        sa.Column("failure", sa.Text()),
        sa.Column("finished_at", sa.Double()),
        sa.CheckConstraint(
            "(state IN ('running', 'verifying')) = (finished_at IS NULL)", name=op.f("ck_attempts_over_has_a_time")
        ),
        sa.CheckConstraint(
            "state NOT IN ('rejected', 'failed', 'expired', 'returned') OR failure IS NOT NULL",
            name=op.f("ck_attempts_failed_says_why"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('verifying', 'accepted') OR output IS NOT NULL",
            name=op.f("ck_attempts_delivered_has_output"),
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number_from_one")),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_attempts_task")),
        sa.PrimaryKeyConstraint("task", "number", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_accepted", "attempts", ["task"], unique=True, **_where("state = 'accepted'"))
    op.create_index(
        "ix_attempts_active", "attempts", ["task"], unique=True, **_where("state IN ('running', 'verifying')")
    )
    op.create_index("ix_attempts_lease", "attempts", ["lease_until"], **_where("state = 'running'"))
    op.create_index("ix_attempts_node", "attempts", ["node"], **_where("state IN ('running', 'verifying')"))


def _tensors() -> None:
    op.create_table(
        "tensors",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column(
            "number", sa.Integer(), nullable=False, comment="of the attempt whose output it is; 0: the task's input"
        ),
        sa.Column("metas", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_tensors_task")),
        sa.PrimaryKeyConstraint("task", "number", name=op.f("pk_tensors")),
    )


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("earned", sa.Text(), nullable=False),
        sa.Column("issued", sa.Text(), nullable=False),
        sa.Column("refused", sa.Text(), nullable=False),
        sa.Column("params", sa.Text()),
        sa.Column("next_nonce", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("next_nonce BETWEEN 0 AND 4294967296", name=op.f("ck_accounts_nonce_is_uint32")),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_accounts")),
    )


def _payments() -> None:
    op.create_table(
        "payments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("tickets", sa.Text(), nullable=False),
        sa.Column("receipt", sa.Boolean()),
        sa.Column("failure", sa.Text()),
        sa.CheckConstraint(
            "(receipt IS NOT NULL AND NOT receipt) = (failure IS NOT NULL)", name=op.f("ck_payments_refused_says_why")
        ),
        sa.ForeignKeyConstraint(["node"], ["accounts.node"], name=op.f("fk_payments_node")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_payments_node_receipt_id"), "payments", ["node", "receipt", "id"])
