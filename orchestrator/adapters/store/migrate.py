"""Brings a database to the schema of this version."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from tandem.protocol.errors import ConfigurationError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs every missing migration up to `revision` inside the connection's transaction: all of them or none.

    Raises ConfigurationError for a database that a newer version wrote.
    """
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigurationError(
            f"expected a database of this version or an older one, got one that it cannot read: {error}; "
            "start the version that wrote it"
        ) from error


def demand_current(connection: Connection) -> None:
    """Raises ConfigurationError unless the database has the schema of this version."""
    found = MigrationContext.configure(connection).get_current_revision()
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    if found != wanted:
        raise ConfigurationError(
            f"expected a database with schema {wanted}, got {found}: start this version's orchestrator on it first"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "orchestrator.adapters.store:migrations")
    config.set_main_option("path_separator", "os")
    return config
