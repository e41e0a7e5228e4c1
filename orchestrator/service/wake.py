"""A bell between services: rung by who has work for another, heard at least once after the last ring."""

import asyncio

from tandem.clock import Clock


class Bell:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, at_most: float) -> None:
        """Returns at the next ring, or after so many seconds."""
        async with asyncio.TaskGroup() as waiting:
            timer = waiting.create_task(self._clock.sleep(at_most))
            timer.add_done_callback(lambda _: self._event.set())
            await self._event.wait()
            timer.cancel()
        self._event.clear()
