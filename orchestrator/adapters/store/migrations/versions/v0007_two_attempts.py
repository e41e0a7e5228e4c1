"""Two active attempts a task, and what an attempt earned."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ACTIVE = "state IN ('running', 'verifying')"
_INDEXES = {
    "ix_attempts_active": (["task", "lane"], True, _ACTIVE),
    "ix_attempts_accepted": (["task"], True, "state = 'accepted'"),
    "ix_attempts_node": (["node"], False, _ACTIVE),
    "ix_attempts_lease": (["lease_until"], False, "state = 'running'"),
}


def upgrade() -> None:
    for name in _INDEXES:
        op.drop_index(op.f(name), "attempts")
    # SQLite has to copy the table for this.
    with op.batch_alter_table("attempts") as batch:
        batch.add_column(sa.Column("lane", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("earned", sa.Text(), nullable=False, server_default="0"))
        batch.create_check_constraint(op.f("ck_attempts_two_lanes"), "lane IN (0, 1)")
        batch.create_check_constraint(
            op.f("ck_attempts_earned_at_its_end"), "earned = '0' OR state IN ('accepted', 'cancelled')"
        )
    op.execute("UPDATE attempts SET earned = price WHERE state = 'accepted'")
    for name, (columns, unique, where) in _INDEXES.items():
        condition = sa.text(where)
        op.create_index(
            op.f(name), "attempts", columns, unique=unique, sqlite_where=condition, postgresql_where=condition
        )
