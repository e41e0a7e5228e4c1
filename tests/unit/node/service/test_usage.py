"""On-line work of a node: bounded, counted, and in its books once the orchestrator says so."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.core.exposure import Balance
from node.core.usage import LATE_SECONDS
from node.service.books import Books
from node.service.link import Link
from node.service.usage import Usage
from tandem.protocol.codec import Frame, decode
from tandem.protocol.errors import ExposureExceeded
from tandem.protocol.messages import UsageReceipt, UsageWindow
from tandem.waiting import Bell
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import DOMAIN, NODE, SENDER, ref

MAX_UNPAID = 100


def window(number: int, price: int, requests: int = 1) -> UsageWindow:
    return UsageWindow(id=f"win_{number:028x}", requests=requests, price=price)


class Counter:
    def __init__(self, store: SqliteTicketStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.books = Books(store, Bell(clock))
        self.link = Link()
        self.said = asyncio.Queue[Frame]()
        self.link.attach(self.said)
        self.usage = Usage(self.books, self.link, clock, MAX_UNPAID)

    def serve(self, *prices: int) -> None:
        for price in prices:
            self.usage.begin(SENDER.address, price)
            self.usage.served(SENDER.address, price)

    async def hear(self, *windows: UsageWindow) -> None:
        for each in windows:
            self.usage.receive(SENDER.address, each)
            await self.usage.step()

    async def open(self, *windows: UsageWindow) -> None:
        self.usage.opened(SENDER.address, windows)
        await self.usage.step()

    @property
    def room(self) -> int:
        return self.usage.room(SENDER.address)


@pytest.fixture
async def counter(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Counter]:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        counter = Counter(store, clock)
        await counter.books.open(SENDER.address)
        yield counter


async def test_work_takes_room_from_its_beginning_until_it_is_paid(counter: Counter) -> None:
    counter.usage.begin(SENDER.address, 60)
    with pytest.raises(ExposureExceeded, match=r"at most 40 wei.*got 41"):
        counter.usage.begin(SENDER.address, 41)
    counter.usage.failed(SENDER.address, 60)
    assert counter.room == MAX_UNPAID
    counter.serve(60)
    assert counter.room == 40
    await counter.hear(window(1, 60))
    assert (counter.room, counter.books.balance) == (40, Balance(earned=60))


async def test_attempts_and_requests_share_the_bound(counter: Counter) -> None:
    counter.books.held = 70
    counter.usage.begin(SENDER.address, 20)
    assert (counter.room, counter.books.at_stake) == (10, 90)
    await counter.books.earn(SENDER.address, ref(), 5)
    assert counter.room == 5


async def test_a_window_is_booked_once_and_answered_each_time(counter: Counter) -> None:
    counter.serve(10, 20, 30)
    await counter.hear(window(1, 30, 2), window(1, 30, 2))
    assert counter.books.tally(SENDER.address).unsettled == 30
    await counter.hear(window(2, 30))
    assert counter.books.balance.earned == 60
    said = [decode(counter.said.get_nowait()).message for _ in range(3)]
    assert said == [UsageReceipt(id=window(number, 0).id) for number in (1, 1, 2)]
    totals = await counter.store.totals(counter.clock.now())
    assert (totals.requests, totals.on_line, totals.earned, totals.lost) == (3, 60, 60, 0)


async def test_an_orchestrator_that_says_more_is_believed(counter: Counter) -> None:
    counter.serve(10)
    await counter.hear(window(1, 50, 5))
    assert (counter.books.balance.earned, counter.books.tally(SENDER.address).exposure) == (50, 0)


async def test_what_the_last_session_served_is_settled_by_the_windows_of_the_welcome(counter: Counter) -> None:
    counter.serve(10, 20)
    counter.usage.opened(SENDER.address, [window(1, 30, 2)])
    counter.serve(40)  # in the new session already
    await counter.usage.step()
    assert (counter.books.balance, counter.room) == (Balance(earned=30), 30)


async def test_what_the_orchestrator_lost_count_of_is_in_the_books(
    counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    counter.serve(10, 20)
    await counter.open(window(1, 10))
    assert counter.books.balance == Balance(earned=10, lost=20)
    assert "usage_lost" in caplog.text
    again = Books(counter.store, Bell(counter.clock))
    await again.open(SENDER.address)
    assert again.balance == counter.books.balance
    assert (await counter.store.totals(counter.clock.now())).lost == 20


async def test_who_always_loses_count_gets_no_more_than_the_bound(counter: Counter) -> None:
    for _ in range(4):
        counter.serve(25)
        await counter.open()
    with pytest.raises(ExposureExceeded, match="and 100 was lost count of"):
        counter.serve(1)


def test_one_percent_of_what_was_paid_may_be_lost() -> None:
    assert Balance(earned=5000, received=5000, lost=50).missed == 0
    assert Balance(earned=5000, received=4900, lost=50).missed == 1


async def test_work_that_stays_in_no_window_is_missed_once(counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await counter.hear(window(1, 1))
    counter.serve(10, 20)
    await counter.hear(window(2, 10))
    counter.clock.advance(LATE_SECONDS)
    for number in (3, 4):
        counter.serve(1)
        await counter.hear(window(number, 1))
    assert caplog.text.count("usage_missing") == 1
    assert counter.books.tally(SENDER.address).unsettled == 20
    await counter.hear(window(5, 20))  # made good
    assert counter.books.tally(SENDER.address).unsettled == 0
