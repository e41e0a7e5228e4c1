"""Jobs that are prepared before they are queued"""

import sqlalchemy as sa
from alembic import op

from orchestrator.adapters.store.migrations.definitions import loosen

revision = "0003"
down_revision = "0002"

_PRICED = (
    "CONSTRAINT ck_jobs_prepared_has_a_price CHECK "
    "(state IN ('preparing', 'failed', 'cancelled') OR price IS NOT NULL), \n\t"
)
_JOBS = (
    ("state IN ('queued', ", "state IN ('preparing', 'queued', "),
    ("price TEXT NOT NULL", "price TEXT"),
    (
        "CONSTRAINT ck_jobs_over_has_a_time",
        _PRICED + "CONSTRAINT ck_jobs_over_has_a_time",
    ),
)


def upgrade() -> None:
    for old, new in _JOBS:
        loosen("jobs", old, new)
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
