"""Jobs that are prepared before they are queued"""

import sqlalchemy as sa
from alembic import op

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
        _loosen("jobs", old, new)
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


def _loosen(table: str, old: str, new: str) -> None:
    """Rewrites a part of a table's definition that every row obeys before and after.

    SQLite has no statement for it, and making the table anew would break every reference to it within the
    transaction; so it is done as the manual of ALTER TABLE says, in the schema's text.
    """
    connection = op.get_bind()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :old, :new) "
            "WHERE type = 'table' AND name = :table AND instr(sql, :old)"
        ),
        {"table": table, "old": old, "new": new},
    )
    if changed.rowcount != 1:
        raise RuntimeError(f"expected {old!r} in the definition of {table}, got another definition")
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
