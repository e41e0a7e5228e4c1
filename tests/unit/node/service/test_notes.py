import asyncio
from pathlib import Path

from node.adapters.ticket_store import SqliteTicketStore
from node.core.standing import Note, Topic
from node.service.notes import Notes
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import DOMAIN, NODE, NOW, until


async def test_what_changes_is_written_and_that_the_node_is_alive(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        notes = Notes(store, clock)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(notes.run())
            assert notes.say(Topic.CHAIN, "timeout")
            assert not notes.say(Topic.CHAIN, "timeout")
            await until(lambda: clock._sleepers)
            assert await store.notes() == (Note("alive", "1800000000", NOW), Note("chain", "timeout", NOW))
            clock.advance(60)
            notes.say(Topic.CHAIN)
            await until(lambda: not notes._new and len(clock._sleepers))
            running.cancel()
        assert await store.notes() == (Note("alive", "1800000060", NOW + 60), Note("chain", "", NOW + 60))
