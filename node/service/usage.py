"""On-line work: bounded before it is begun, counted when it is served, and in the books once a window says so.

No request is written down. What the orchestrator counted it says in windows, each of which is booked once; what the
node counted itself bounds what can be lost by the way: together with all else that is unpaid, `max_unpaid`.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from node.core.exposure import Balance, headroom
from node.core.usage import LATE_SECONDS, Lateness, Tally
from node.service.books import Books
from node.service.link import Link
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ExposureExceeded
from tandem.protocol.messages import UsageReceipt, UsageWindow
from tandem.protocol.signing import Address

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1024


@dataclass(frozen=True, slots=True)
class _Opened:
    """A session was: beyond these windows nothing of earlier ones will be settled."""

    windows: Sequence[UsageWindow]


class Usage:
    """`begin` comes before each request, and `served` or `failed` after it, with the same price in wei."""

    def __init__(self, books: Books, link: Link, clock: Clock, max_unpaid: int) -> None:
        self._books = books
        self._link = link
        self._clock = clock
        self._max_unpaid = max_unpaid
        self._queue: asyncio.Queue[tuple[Address, UsageWindow | _Opened]] = asyncio.Queue()
        self._late = Lateness()
        self._balance: Balance | None = None
        self._headroom = 0
        """Of that balance, with nothing under way."""

    # --- for every request

    def room(self, sender: Address) -> int:
        """Wei of further on-line work before `max_unpaid` is passed; below zero where it was already."""
        return self._room(self._books.tally(sender))

    def begin(self, sender: Address, price: int) -> None:
        """Raises ExposureExceeded for a request that there is no room for."""
        tally = self._books.tally(sender)
        room = self._room(tally)
        if price > room:
            raise ExposureExceeded(
                f"expected work for at most {max(0, room)} wei until more is settled and paid (max_unpaid is "
                f"{self._max_unpaid}, {tally.unsettled} is served and in no window, and "
                f"{self._books.balance.missed} was lost count of), got {price}; pay first"
            )
        tally.begin(price)

    def _room(self, tally: Tally) -> int:
        balance = self._books.balance
        if balance is not self._balance:
            self._balance, self._headroom = balance, headroom(balance, 0, self._max_unpaid)
        return self._headroom - self._books.held - tally.exposure

    def served(self, sender: Address, price: int) -> None:
        """The whole answer is on its way."""
        self._books.tally(sender).answer(price)

    def failed(self, sender: Address, price: int) -> None:
        """There was no answer, or nobody to take it any more."""
        self._books.tally(sender).fail(price)

    # --- what the orchestrator says

    def opened(self, sender: Address, windows: Sequence[UsageWindow]) -> None:
        """A new session: these are all windows of earlier ones, and what they leave out is lost."""
        self._books.tally(sender).carry()
        self._queue.put_nowait((sender, _Opened(windows)))

    def receive(self, sender: Address, window: UsageWindow) -> None:
        """Queues a window. One that finds no room is dropped: it is said again in the next session."""
        if self._queue.qsize() < _MAX_QUEUED:
            self._queue.put_nowait((sender, window))
        else:
            log.event(logger, "usage_dropped", level=logging.WARNING, queued=_MAX_QUEUED)

    async def run(self) -> None:
        """Until cancelled. Beside the session, which a write to the disk would hold up."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Waits for the next thing that is said, and writes it down."""
        sender, said = await self._queue.get()
        if isinstance(said, UsageWindow):
            await self._book(sender, said)
            self._miss(sender)
        else:
            for window in said.windows:
                await self._book(sender, window)
            await self._give_up(sender)
        self._queue.task_done()

    async def written(self) -> None:
        """Returns once all that was said so far is in the books."""
        await self._queue.join()

    async def _book(self, sender: Address, window: UsageWindow) -> None:
        if await self._books.book(sender, window):
            self._late.settled(self._books.tally(sender).settle(window.requests, window.price))
        self._link.send(UsageReceipt(id=window.id))

    async def _give_up(self, sender: Address) -> None:
        """The orchestrator was killed and remembers no more: what it owed for it is gone, and the books say so."""
        self._late = Lateness()
        lost = self._books.tally(sender).carried
        if lost.requests:
            await self._books.lose(sender, lost.requests, lost.price)
            self._books.tally(sender).give_up()
            log.event(logger, "usage_lost", level=logging.WARNING, requests=lost.requests, price=lost.price)

    def _miss(self, sender: Address) -> None:
        missing = self._late.missing(self._books.tally(sender).unsettled, self._clock.monotonic())
        if missing:
            log.event(logger, "usage_missing", level=logging.WARNING, price=missing, seconds=LATE_SECONDS)
