"""Where the bytes of sources are."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("layout", sa.Text()))
