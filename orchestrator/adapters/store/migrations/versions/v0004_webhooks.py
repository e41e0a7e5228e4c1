"""Webhooks and their outbox"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_STATES = ("preparing", "queued", "running", "verifying", "succeeded", "failed", "cancelled")
_STATUSES = ("waiting", "pending", "delivered", "failed")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("webhook", sa.Text()))
    op.create_table(
        "webhooks",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("url", sa.Text()),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("previous", sa.Text()),
        sa.Column("previous_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "deliveries",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        _one_of("state", *_STATES),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="scheme, host and port of the URL"),
        _one_of("status", *_STATUSES),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("delivered_at", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint(
            "(status = 'delivered') = (delivered_at IS NOT NULL)", name=op.f("ck_deliveries_delivered_has_a_time")
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_deliveries_job")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_deliveries")),
    )
    pending = sa.text("status = 'pending'")
    op.create_index(op.f("ix_deliveries_owner_job_number"), "deliveries", ["owner", "job", "number"])
    op.create_index("ix_deliveries_due", "deliveries", ["not_before"], sqlite_where=pending, postgresql_where=pending)
    op.create_index(
        "ix_deliveries_pending", "deliveries", ["job"], unique=True, sqlite_where=pending, postgresql_where=pending
    )


def _one_of(name: str, *values: str) -> sa.Column[str]:
    kind = sa.Enum(*values, name=op.f(f"ck_deliveries_{name}"), native_enum=False, create_constraint=True, length=16)
    return sa.Column(name, kind, nullable=False)
