"""Keyframes of sources"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("artifacts") as table:
        comment = "presentation times in µs; kept beside the media"
        table.add_column(sa.Column("keyframes", sa.Text(), nullable=True, comment=comment))
