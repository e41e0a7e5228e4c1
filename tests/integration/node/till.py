"""A process that takes payments into a ticket store and says so, until it is killed."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Till, check, fund
from node.core.terms import Epochs, issue
from tests.fixtures.node import ALWAYS, DOMAIN, LIFETIME, NODE, NOW, SENDER, backing, payment, ref

TICKETS = 50


async def take_payments(path: Path) -> None:
    async with SqliteTicketStore(path, NODE.address, DOMAIN) as store:
        expiry = int(NOW + LIFETIME)
        params = issue(ALWAYS, store.secret, SENDER.address, NODE.address, 1, expiry)
        till = Till(DOMAIN, store.secret, SENDER.address, NODE.address, Epochs(), NOW, 60.0)
        for number in count(1):
            first = number * TICKETS
            checked = check(payment(params, range(first, first + TICKETS), number=number), till, frozenset())
            await store.take(fund(checked, backing(), 0), bytes(32))
            await store.earn(SENDER.address, ref(number), 10)
            print(number, flush=True)  # noqa: T201 - the receipt


if __name__ == "__main__":
    asyncio.run(take_payments(Path(sys.argv[1])))
