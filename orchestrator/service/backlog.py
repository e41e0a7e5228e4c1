"""Works off what is to be done at jobs beside their tasks: bounded, again after a failure, ended with the job."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Generic

from orchestrator.core.backlog import BacklogPolicy, Record, due, next_due
from orchestrator.service.events import JobEvents, StateChanged, Subscription
from tandem.protocol.jobs import JobState
from tandem.waiting import Bell

_IDLE_SECONDS = 60.0


class Backlog(Generic[Record]):
    """`load` gives so many records, of none of some owners, the first to be tried first; `now` gives the store's time.
    `work` does the work of one record.

    `bell` is rung when there may be a new one. Work is cancelled where its job is; else it ends by itself.
    """

    def __init__(
        self,
        load: Callable[[int, Collection[str]], Awaitable[list[Record]]],
        work: Callable[[Record], Coroutine[Any, Any, None]],
        now: Callable[[], Awaitable[float]],
        events: JobEvents,
        bell: Bell,
        policy: BacklogPolicy,
    ) -> None:
        self._load: Callable[[int, Collection[str]], Awaitable[list[Record]]] = load
        self._work: Callable[[Record], Coroutine[Any, Any, None]] = work
        self._now = now
        self._events = events
        self._bell = bell
        self._policy = policy
        self._running: dict[str, str] = {}
        """Owners, by job."""
        self._ended: set[str] = set()
        """Jobs whose work ended since the last look at the store began: what it then reads of them may be old."""

    async def run(self) -> None:
        """Until cancelled; first takes up what an earlier process had begun."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._ended.clear()
                now, loaded = await self._now(), await self._look()
                records = [record for record in loaded if record.job not in self._ended]
                begun = due(records, self._running, now, self._policy)
                for record in begun:
                    self._running[record.job] = record.owner
                    group.create_task(self.attend(record))
                if not begun:  # else there may be more, of other owners
                    later = next_due(records, now)
                    await self._bell.wait(_IDLE_SECONDS if later is None else later - now)

    async def _look(self) -> list[Record]:
        """As many as can matter, however many an owner has: those that run stay in the store until their end."""
        owners = Counter(self._running.values())
        full = [owner for owner, count in owners.items() if count >= self._policy.per_owner]
        return await self._load(2 * self._policy.concurrency, full)

    async def attend(self, record: Record) -> None:
        """Works at one job, unless it is cancelled meanwhile."""
        try:
            with self._events.subscribe(record.job) as news:
                async with asyncio.TaskGroup() as both:
                    work = both.create_task(self._work(record))
                    watch = both.create_task(_cancel_with(news, work))
                    await asyncio.wait([work])
                    watch.cancel()
        finally:
            self._running.pop(record.job, None)
            self._ended.add(record.job)
            self._events.clear_progress(record.job)
            self._bell.ring()


async def _cancel_with(news: Subscription, work: "asyncio.Task[None]") -> None:
    async for event in news:
        if event == StateChanged(JobState.CANCELLED):
            work.cancel()
            return
