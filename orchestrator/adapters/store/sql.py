"""The whole store, opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection

from orchestrator.adapters.store.accounts import SqlAccounts
from orchestrator.adapters.store.catalogue import SqlCatalogue
from orchestrator.adapters.store.chain import SqlLedger, read_books
from orchestrator.adapters.store.engine import open_database, open_reader
from orchestrator.adapters.store.exports import SqlExports
from orchestrator.adapters.store.folders import SqlFolders
from orchestrator.adapters.store.funding import SqlFunding
from orchestrator.adapters.store.history import SqlHistory
from orchestrator.adapters.store.jobs import SqlJobs
from orchestrator.adapters.store.migrate import demand_current, upgrade
from orchestrator.adapters.store.preparations import SqlPreparations
from orchestrator.adapters.store.usage import SqlUsage
from orchestrator.adapters.store.webhooks import SqlWebhooks
from orchestrator.core.records import Books
from tandem.clock import Clock


class SqlStore(
    SqlJobs,
    SqlFolders,
    SqlPreparations,
    SqlExports,
    SqlHistory,
    SqlAccounts,
    SqlUsage,
    SqlLedger,
    SqlFunding,
    SqlCatalogue,
    SqlWebhooks,
):
    """Implements `orchestrator.ports.store.Store`."""


async def look_into_books(url: str, source: str) -> Books:
    """The ledger of a store that another process may be at work on. Raises ConfigurationError if there is none."""

    def read(connection: Connection) -> Books:
        demand_current(connection)
        return read_books(connection, source)

    async with open_reader(url) as readers:
        return await readers.run(read)


@asynccontextmanager
async def open_store(url: str, clock: Clock) -> AsyncIterator[SqlStore]:
    """The store at an SQLAlchemy URL, brought to this version's schema first.

    Its time is the clock's: SQLite has none of its own and one process to serve. Raises ConfigurationError if the
    database cannot be opened or was written by a newer version.
    """
    async with open_database(url, clock) as database:
        await database.write(upgrade)
        yield SqlStore(database)
