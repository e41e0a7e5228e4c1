"""A process that stops for good in the middle of a transaction, with one write done in it and another one begun."""

import asyncio
import sys
import threading

from sqlalchemy import Connection, insert

from orchestrator.adapters.store.engine import open_database
from orchestrator.adapters.store.migrate import upgrade
from orchestrator.adapters.store.schema import api_keys
from tandem.clock import SystemClock


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _add(connection: Connection, name: str) -> None:
    connection.execute(insert(api_keys).values(id=name, name=name, digest=name.encode(), created_at=0))


def _add_and_stop(connection: Connection) -> None:
    _add(connection, "second")
    _say("stopped")
    threading.Event().wait()


async def main(url: str) -> None:
    async with open_database(url, SystemClock()) as database:
        await database.write(upgrade)
        await database.write(lambda connection: _add(connection, "first"))
        _say("first")
        await database.write(_add_and_stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
