"""Folders of files that are put together from the results of tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_files_artifact")),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_files_job")),
        sa.PrimaryKeyConstraint("job", "path", name=op.f("pk_files")),
    )
    op.create_table(
        "packages",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("package", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_packages_task")),
        sa.PrimaryKeyConstraint("task", "name", name=op.f("pk_packages")),
    )
