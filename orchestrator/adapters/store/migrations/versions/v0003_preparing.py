"""Jobs that are prepared before they are queued"""

import sqlalchemy as sa
from alembic import op

from orchestrator.adapters.store.migrations.definitions import loosen, loosen_states

revision = "0003"
down_revision = "0002"

_STATES = ("queued", "running", "verifying", "succeeded", "failed", "cancelled")
_PRICED = (
    "CONSTRAINT ck_jobs_prepared_has_a_price CHECK (state IN ('preparing', 'failed', 'cancelled') OR price IS NOT NULL)"
)
_NEXT = "CONSTRAINT ck_jobs_over_has_a_time"


def upgrade() -> None:
    loosen_states("jobs", _STATES, ("preparing", *_STATES))
    loosen("jobs", "price TEXT NOT NULL", "price TEXT", elsewhere="ALTER COLUMN price DROP NOT NULL")
    loosen("jobs", _NEXT, f"{_PRICED}, \n\t{_NEXT}", elsewhere=f"ADD {_PRICED}")
    op.create_table(
        "preparations",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("source", sa.Text()),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_preparations_job")),
        sa.ForeignKeyConstraint(["source"], ["artifacts.id"], name=op.f("fk_preparations_source")),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_preparations")),
    )
