"""Brings a database to the schema of this version."""

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from tandem.protocol.errors import ConfigurationError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs every missing migration up to `revision` inside the connection's transaction: all of them or none.

    Raises ConfigurationError for a database that a newer version wrote.
    """
    config = Config()
    config.set_main_option("script_location", "orchestrator.adapters.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigurationError(
            f"expected a database of this version or an older one, got one that it cannot read: {error}; "
            "start the version that wrote it"
        ) from error
