import asyncio

from tandem.waiting import Bell, happens
from tests.fixtures.clock import ManualClock


async def test_a_ring_before_the_wait_is_not_missed_and_counts_once(clock: ManualClock) -> None:
    bell = Bell(clock)
    bell.ring()
    bell.ring()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        await bell.wait(60)
        again = group.create_task(bell.wait(60))
        await asyncio.sleep(0)
        assert not again.done()
        bell.ring()


async def test_a_wait_ends_with_its_time(clock: ManualClock) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(happens(asyncio.Event(), clock, 60))
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(59)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(1)
        assert await waiting is False


async def test_what_has_happened_is_not_waited_for(clock: ManualClock) -> None:
    event = asyncio.Event()
    event.set()
    assert await happens(event, clock, 60)
