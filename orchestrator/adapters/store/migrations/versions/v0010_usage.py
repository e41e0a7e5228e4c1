"""On-line usage: windows, and sums by day."""

import sqlalchemy as sa
from alembic import op

from orchestrator.adapters.store.migrations.definitions import loosen

revision = "0010"
down_revision = "0009"

_OTHERS = "'issued', 'refused', 'refusal_voided', 'redeemed', 'funded', 'withdrawn', 'taken_back'"
_BEFORE = f"kind IN ('earned', {_OTHERS})"
_AFTER = f"kind IN ('earned', 'used', {_OTHERS})"


def upgrade() -> None:
    check = "ck_entries_kind"
    loosen("entries", _BEFORE, _AFTER, elsewhere=f"DROP CONSTRAINT {check}, ADD CONSTRAINT {check} CHECK ({_AFTER})")
    op.create_table(
        "windows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.Text(), nullable=False),
        sa.CheckConstraint("requests > 0", name=op.f("ck_windows_not_empty")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_windows")),
        comment="of on-line usage, owed and not answered by the node",
    )
    op.create_index(op.f("ix_windows_node_id"), "windows", ["node", "id"])
    op.create_table(
        "usage",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "day", "model", "version", "node", name=op.f("pk_usage")),
        comment="accepted on-line work, added up by day",
    )
    op.create_index(op.f("ix_usage_day_model_version"), "usage", ["day", "model", "version"])
