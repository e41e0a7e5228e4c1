"""Models belong to keys, have files of external data, and say when they were changed.

Those that are there already stay everybody's, and are from now on in the care of whoever is at the machine itself.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_OWNER = "local"


def upgrade() -> None:
    connection = op.get_bind()
    old = connection.execute(sa.text("SELECT name, version, artifact, info FROM models")).all()
    op.drop_index(op.f("ix_models_artifact"), "models")
    op.drop_table("models")
    models = _models()
    _model_files()
    revisions = op.create_table(
        "catalogue_revision",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_catalogue_revision")),
    )
    if old:
        op.bulk_insert(models, [_owned(row) for row in old])
        op.bulk_insert(revisions, [{"number": 1}])


def _owned(row: sa.Row[tuple[str, str, str, str]]) -> dict[str, object]:
    info = {**json.loads(row.info), "owner": _OWNER, "public": True}
    return {
        "owner": _OWNER,
        "name": row.name,
        "version": row.version,
        "public": True,
        "artifact": row.artifact,
        "info": json.dumps(info),
        "revision": 1,
    }


def _models() -> sa.Table:
    table = op.create_table(
        "models",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_models_artifact")),
        sa.PrimaryKeyConstraint("owner", "name", "version", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_artifact"), "models", ["artifact"])
    op.create_index(op.f("ix_models_revision"), "models", ["revision"])
    return table


def _model_files() -> None:
    op.create_table(
        "model_files",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.id"], name=op.f("fk_model_files_artifact")),
        sa.ForeignKeyConstraint(
            ["owner", "name", "version"],
            ["models.owner", "models.name", "models.version"],
            name=op.f("fk_model_files_owner_name_version"),
        ),
        sa.PrimaryKeyConstraint("owner", "name", "version", "artifact", name=op.f("pk_model_files")),
    )
    op.create_index(op.f("ix_model_files_artifact"), "model_files", ["artifact"])
