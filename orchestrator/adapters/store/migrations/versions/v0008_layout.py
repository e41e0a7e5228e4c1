"""Where the bytes of sources are."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("layout", sa.Text()))
