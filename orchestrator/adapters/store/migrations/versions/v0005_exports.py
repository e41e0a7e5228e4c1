"""Results that are written to URLs of submitters"""

import sqlalchemy as sa
from alembic import op

from orchestrator.adapters.store.migrations.definitions import loosen_states

revision = "0005"
down_revision = "0004"

_BEFORE = ("preparing", "queued", "running", "verifying", "succeeded", "failed", "cancelled")
_AFTER = ("preparing", "queued", "running", "verifying", "exporting", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    loosen_states("jobs", _BEFORE, _AFTER)
    loosen_states("deliveries", _BEFORE, _AFTER)
    op.create_table(
        "exports",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("written", sa.Text(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_exports_job")),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_exports")),
    )
    op.create_index(op.f("ix_exports_open_job"), "exports", ["open", "job"])
