"""Waiting for something to happen, but no longer than so many seconds of the clock; telling whoever waits."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tandem.clock import Clock

_Outcome = TypeVar("_Outcome")


async def happens(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Whether the event is set, now or within the time."""
    if event.is_set():
        return True
    async with asyncio.TaskGroup() as waiting:
        tasks = [waiting.create_task(event.wait()), waiting.create_task(_sleep(clock, seconds))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return event.is_set()


async def _sleep(clock: Clock, seconds: float) -> bool:
    await clock.sleep(seconds)
    return True


class Bell:
    """Rung by one service for another; a ring between two waits is not missed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, at_most: float) -> None:
        """Returns at the next ring, or after so many seconds."""
        await happens(self._rung, self._clock, at_most)
        self._rung.clear()


def tell(done: Callable[[_Outcome], None], outcome: _Outcome) -> None:
    """Calls `done`. If it raises, the event loop says so, and whoever has a turn after it is not held up."""
    try:
        done(outcome)
    except Exception as error:  # noqa: BLE001 - it is not this one's alone to end
        asyncio.get_running_loop().call_exception_handler(
            {"message": "the outcome of a request was not taken", "exception": error}
        )
