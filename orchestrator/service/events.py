"""News of jobs, told to whoever listens in this process. Nothing is kept: the store has the truth.

A listener who is slow gets the newest state and the newest progress, and never a backlog.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.core.progress import NOT_BEGUN, JobProgress
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState, is_final


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: JobState


JobEvent = StateChanged | JobProgress


class Subscription:
    """One listener's place: at most one state and one progress wait in it."""

    def __init__(self) -> None:
        self._state: StateChanged | None = None
        self._progress: JobProgress | None = None
        self._news = asyncio.Event()
        self._closed = False

    def put(self, event: JobEvent) -> None:
        match event:
            case StateChanged():
                self._state = event
            case JobProgress():
                self._progress = event
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def next(self) -> JobEvent | None:
        """The next event; None once the hub is closed. Cancelling the wait loses nothing."""
        await self._news.wait()
        event: JobEvent | None = None if self._closed else self._state or self._progress
        if isinstance(event, StateChanged):
            self._state = None
        else:
            self._progress = None
        if not self._closed and self._state is None and self._progress is None:
            self._news.clear()
        return event

    async def __aiter__(self) -> AsyncIterator[JobEvent]:
        while (event := await self.next()) is not None:
            yield event


class JobEvents:
    """The hub. All methods are synchronous, and belong to the event loop's thread."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._progress: dict[str, JobProgress] = {}
        self._closed = False

    def publish_state(self, job_id: str, state: JobState) -> None:
        """Back in the queue, or at its end, a job has no progress of its own any more."""
        if state is JobState.QUEUED or is_final(JOB_TRANSITIONS, state):
            self.clear_progress(job_id)
        self._tell(job_id, StateChanged(state))

    def publish_progress(self, job_id: str, progress: JobProgress) -> None:
        self._progress[job_id] = progress
        self._tell(job_id, progress)

    def clear_progress(self, job_id: str) -> None:
        """What was going on is over, and says nothing of what comes next."""
        self._progress.pop(job_id, None)

    def progress(self, job_id: str) -> JobProgress:
        """The newest progress that was published; none at all reads as not begun."""
        return self._progress.get(job_id, NOT_BEGUN)

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """What is published within the context. Subscribe first, then read the state: so nothing is missed."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        listeners = self._subscriptions.setdefault(job_id, set())
        listeners.add(subscription)
        try:
            yield subscription
        finally:
            listeners.discard(subscription)
            if not listeners:
                self._subscriptions.pop(job_id, None)

    def close(self) -> None:
        """Ends every subscription, now and later: the process is going down."""
        self._closed = True
        for listeners in self._subscriptions.values():
            for subscription in listeners:
                subscription.close()

    def _tell(self, job_id: str, event: JobEvent) -> None:
        for subscription in self._subscriptions.get(job_id, ()):
            subscription.put(event)
