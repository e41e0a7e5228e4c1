import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.core.session import Expectation, NodeSession
from node.service import session
from node.service.online import Online
from node.service.session import Services
from tandem.protocol.errors import Unavailable
from tandem.protocol.streams import Buffer
from tandem.websocket import Said
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import DOMAIN, NODE, OFFER
from tests.fixtures.till import Till
from tests.unit.node.service.test_attempts import Node


class Deaf:
    """Asks and asks, and reads nothing."""

    full = True

    def send(self, *_: Buffer | str) -> None:
        raise AssertionError("it is full")

    def listen(self, heard: Callable[[Said], bool], writable: Callable[[], None]) -> None:
        """Nothing is ever writable."""

    async def receive(self) -> Said:
        return '{"type": "gossip"}'


async def test_an_orchestrator_that_does_not_read_is_left(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MAX_UNSENT", 100)
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        node, till = Node(store, clock, tmp_path), Till(store, clock)
        online = Online(
            node.work, node.work, till.usage, till.link, clock, prices=OFFER.prices, offer=node.attempts.offer_models
        )
        services = Services(
            node.attempts, online, till.payments, till.usage, till.terms, till.books, till.link, till.notes
        )
        machine = NodeSession(Expectation("http://o", DOMAIN), NODE, bytes(32))
        conversation = session._Conversation(services, clock, machine)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(10) as deadline:
                await conversation.hold(Deaf(), deadline)
    assert caught.group_contains(Unavailable, match="100 messages wait")
