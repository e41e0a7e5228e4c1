"""The whole store, opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.adapters.store.accounts import SqlAccounts
from orchestrator.adapters.store.catalogue import SqlCatalogue
from orchestrator.adapters.store.chain import SqlLedger
from orchestrator.adapters.store.engine import open_database
from orchestrator.adapters.store.folders import SqlFolders
from orchestrator.adapters.store.jobs import SqlJobs
from orchestrator.adapters.store.migrate import upgrade
from tandem.clock import Clock


class SqlStore(SqlJobs, SqlFolders, SqlAccounts, SqlLedger, SqlCatalogue):
    """Implements `orchestrator.ports.store.Store`."""


@asynccontextmanager
async def open_store(url: str, clock: Clock) -> AsyncIterator[SqlStore]:
    """The store at an SQLAlchemy URL, brought to this version's schema first.

    Its time is the clock's: SQLite has none of its own and one process to serve. Raises ConfigurationError if the
    database cannot be opened or was written by a newer version.
    """
    async with open_database(url, clock) as database:
        await database.write(upgrade)
        yield SqlStore(database)
