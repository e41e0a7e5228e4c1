"""Indexes: a job's state among its owner's, and what refers to an artifact, which is asked at each one's end."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_index(op.f("ix_jobs_owner_state_id"), "jobs", ["owner", "state", "id"])
    op.create_index(op.f("ix_files_artifact"), "files", ["artifact"])
    op.create_index(op.f("ix_preparations_source"), "preparations", ["source"])
