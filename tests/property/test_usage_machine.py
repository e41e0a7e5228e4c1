"""On-line usage under everything that can go wrong, as a state machine over the real services and stores of both sides.

Whatever is served, accepted, settled, said twice or not at all, and whoever is killed, also while it writes: no more is
owed than was accepted, both books say the same once all is said, and what is lost is what was in no window when the
orchestrator was killed, or an answer that never arrived.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from node.adapters.ticket_store import SqliteTicketStore
from node.service import books as node_books
from node.service import usage as node_usage
from node.service.link import Link
from orchestrator.adapters.store import SqlStore, open_store
from orchestrator.core.reconciliation import reconcile
from orchestrator.service.nodes import ConnectedNode, Nodes
from orchestrator.service.usage import Usage
from tandem.clock import SystemClock
from tandem.protocol.codec import Frame, decode
from tandem.protocol.errors import ExposureExceeded
from tandem.protocol.messages import OrchestratorMessage, UsageReceipt, UsageWindow
from tandem.protocol.models import ModelInfo
from tandem.waiting import Bell
from tests.fixtures.clock import ManualClock
from tests.fixtures.links import NoRequests
from tests.fixtures.node import DOMAIN, NODE, OFFER, SENDER

T = TypeVar("T")

MAX_UNPAID = 5000
MODEL = ModelInfo(
    name="digits", version="1", artifact=f"sha256:{0:064x}", size=1, inputs=(), outputs=(), cost_us=1, memory=1
)


@cache
def empty() -> Path:
    """A folder with the two stores as they are at first; making them takes longer than all the rest."""
    folder = Path(tempfile.mkdtemp())

    async def make() -> None:
        async with open_store(f"sqlite:///{folder / 'orchestrator.db'}", SystemClock()):
            pass
        async with SqliteTicketStore(folder / "node.db", NODE.address, DOMAIN):
            pass

    asyncio.run(make())
    return folder


class Wire(NoRequests):
    """What the orchestrator has said and the node has not heard yet."""

    def __init__(self) -> None:
        self.said: list[UsageWindow] = []

    def send(self, message: OrchestratorMessage, _tensors: object = ()) -> None:
        assert isinstance(message, UsageWindow)
        self.said.append(message)

    def close(self, code: str, reason: str) -> None:
        """Whoever is at the other end has gone already."""


class Market(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(shutil.copytree(empty(), tempfile.mkdtemp(), dirs_exist_ok=True))
        self.clock = ManualClock()
        self.served = self.accepted = self.bound = 0
        self.run(self.start_orchestrator())
        self.run(self.start_node())
        self.run(self.connect())

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(doing)

    async def start_orchestrator(self) -> None:
        self.there = AsyncExitStack()
        self.store: SqlStore = await self.there.enter_async_context(
            open_store(f"sqlite:///{self.folder / 'orchestrator.db'}", self.clock)
        )
        self.nodes = Nodes()
        self.usage = Usage(self.store, self.nodes, self.clock, 1.0, lambda: None, CollectorRegistry())

    async def start_node(self) -> None:
        self.here = AsyncExitStack()
        self.tickets = await self.here.enter_async_context(
            SqliteTicketStore(self.folder / "node.db", NODE.address, DOMAIN)
        )
        self.books = node_books.Books(self.tickets, Bell(self.clock))
        self.link = Link()
        self.counted = node_usage.Usage(self.books, self.link, self.clock, MAX_UNPAID)

    async def connect(self) -> None:
        """A new session; what was under way in the last one is lost."""
        self.answers: list[int] = []
        self.wire, self.receipts = Wire(), asyncio.Queue[Frame]()
        offer = OFFER.model_copy(update={"max_unpaid": MAX_UNPAID})
        self.node = ConnectedNode(NODE.address, self.wire, offer, 0.0)
        await self.books.open(SENDER.address)
        self.nodes.add(self.node)
        windows = await self.usage.resume(NODE.address)
        self.link.attach(self.receipts)
        self.counted.opened(SENDER.address, windows)
        await self.write()
        await self.hear()

    async def write(self) -> None:
        while self.counted._queue.qsize():
            await self.counted.step()

    async def hear(self) -> None:
        while not self.receipts.empty():
            message = decode(self.receipts.get_nowait()).message
            assert isinstance(message, UsageReceipt)
            await self.usage.receipt(self.node, message.id)

    # --- what is meant to happen

    @rule(prices=st.lists(st.integers(0, 60), min_size=1, max_size=5), arriving=st.integers(0, 9))
    def requests_are_served(self, prices: list[int], arriving: int) -> None:
        for price in prices:
            self.serve(price, answered=price % 10 > 0)
        self.answers_arrive(arriving)

    def serve(self, price: int, *, answered: bool) -> None:
        try:
            self.counted.begin(SENDER.address, price)
        except ExposureExceeded:
            assert self.counted.room(SENDER.address) < price
            return
        self.usage.begin(self.node, price)
        if answered:
            self.counted.served(SENDER.address, price)
            self.served += price
            self.answers.append(price)
        else:
            self.counted.failed(SENDER.address, price)
            self.usage.end(self.node, price)

    def answers_arrive(self, count: int) -> None:
        arrived, self.answers = self.answers[:count], self.answers[count:]
        for price in arrived:
            self.usage.end(self.node, price)
            self.usage.add(NODE.address, "local", MODEL, price)
            self.accepted += price

    @rule()
    @precondition(lambda self: self.usage._pending)
    def a_window_ends(self) -> None:
        self.run(self.usage.settle())

    @rule(times=st.integers(1, 2))
    @precondition(lambda self: self.wire.said)
    def the_node_hears(self, times: int) -> None:
        said, self.wire.said = self.wire.said, []
        for window in said * times:
            self.counted.receive(SENDER.address, window)
        self.run(self.write())

    @rule()
    @precondition(lambda self: not self.receipts.empty())
    def receipts_arrive(self) -> None:
        self.run(self.hear())

    # --- what goes wrong

    @rule()
    def the_session_drops(self) -> None:
        self.run(self.connect())

    @rule()
    def the_node_is_killed(self) -> None:
        self.run(self._restart_node())

    @rule(turns=st.none() | st.integers(0, 4))
    def the_orchestrator_is_killed(self, turns: int | None) -> None:
        """At once, or so many turns of its loop after it began to write."""
        self.run(self._kill_orchestrator(turns))

    @rule(turns=st.integers(0, 9))
    def the_orchestrator_is_stopped(self, turns: int) -> None:
        """Also while it writes."""
        self.run(self._stop_orchestrator(turns))

    async def _restart_node(self) -> None:
        await self.here.aclose()
        await self.start_node()
        await self.connect()

    async def _kill_orchestrator(self, turns: int | None) -> None:
        if turns is not None:
            settling = asyncio.create_task(self.usage.settle())
            for _ in range(turns):
                await asyncio.sleep(0)
            settling.cancel()
            with suppress(asyncio.CancelledError):
                await settling
        await self.there.aclose()
        await self.start_orchestrator()
        await self.connect()
        owed = (await self.store.account(NODE.address)).earned
        assert self.accepted - owed <= MAX_UNPAID
        self.accepted = owed  # the rest is forgotten

    async def _stop_orchestrator(self, turns: int) -> None:
        running = asyncio.create_task(self.usage.run())
        self.usage.settle_soon()
        for _ in range(1 + turns):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await self.there.aclose()
        await self.start_orchestrator()
        await self.connect()
        assert (await self.store.account(NODE.address)).earned == self.accepted

    # --- what always holds

    @invariant()
    def nothing_is_owed_that_was_not_accepted(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        owed = (await self.store.account(NODE.address)).earned
        pending = sum(each.price for each in self.usage._pending.values())
        assert owed + pending == self.accepted <= self.served
        booked = await self.tickets.totals(self.clock.now())
        assert booked.on_line == self.books.balance.earned <= owed
        tally = self.books.tally(SENDER.address)
        assert booked.on_line + booked.lost + tally.unsettled <= self.served
        balance = self.books.balance
        assert (balance.lost, balance.unpaid) == (booked.lost, booked.on_line)
        assert balance.unpaid + balance.lost + tally.exposure <= MAX_UNPAID
        # What the orchestrator thinks is at stake covers all that it will owe.
        assert self.node.unsettled == pending
        assert self.node.in_flight == sum(self.answers)

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.run(self.there.aclose())
            self.run(self.here.aclose())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _end(self) -> None:
        await self.connect()
        booked, owed = await self.tickets.totals(self.clock.now()), await self.store.account(NODE.address)
        assert booked.on_line == owed.earned == self.accepted
        assert self.books.tally(SENDER.address).exposure == 0
        assert await self.store.open_windows(NODE.address, 9) == []
        ledger = reconcile(await self.store.books("source"), "source", None)
        assert (ledger.differences, ledger.debits) == ((), owed.earned)


def test_usage() -> None:
    run_state_machine_as_test(
        Market,
        settings=settings(
            max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
