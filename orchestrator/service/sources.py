"""URLs become artifacts, and whoever watches the job sees them come.

A visit that breaks off is gone on with where it ended, if the server can tell that the file is still the same. If it
cannot, or not after some tries, what has come is dropped, and whoever asked may ask again for the whole.
"""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from orchestrator.core.progress import JobProgress
from orchestrator.core.records import ArtifactRecord
from orchestrator.ports.visiting import Fetched, Part, Visitor
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.events import JobEvents
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import UrlRefused, UrlUnavailable

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.25
_RESUMES = 4
_PAUSE_SECONDS = 2.0
"""Before the first of them; doubled for each one after."""


class _NoRestError(Exception):
    """There is no rest of what has come."""


class Sources:
    def __init__(self, artifacts: Artifacts, visitor: Visitor, events: JobEvents, clock: Clock) -> None:
        self._artifacts = artifacts
        self._visitor = visitor
        self._events = events
        self._clock = clock

    async def fetch(self, job: str, url: str) -> ArtifactRecord:
        """Raises UrlForbidden, UrlRefused, UrlUnavailable, TooLarge; Unavailable if it cannot be kept."""
        begun = self._clock.monotonic()
        async with AsyncExitStack() as visits:
            fetched = await visits.enter_async_context(self._visitor.fetch(url))
            chunks = self._told(job, self._whole(job, url, visits, fetched), fetched.size)
            try:
                record = await self._artifacts.upload(chunks, fetched.media_type, fetched.size)
            except _NoRestError as error:
                raise UrlUnavailable("expected the rest of a file that broke off, got another, or no ranges") from error
        seconds = round(self._clock.monotonic() - begun, 3)
        log.event(logger, "input_fetched", job=job, artifact=record.id, bytes=record.size, seconds=seconds)
        return record

    async def _whole(self, job: str, url: str, visits: AsyncExitStack, first: Fetched) -> AsyncIterator[bytes]:
        """By as many visits as it takes; all of them end with `visits`, and within the time of the first."""
        received, resumed, chunks = 0, 0, first.chunks
        while True:
            try:
                async for chunk in chunks:
                    received += len(chunk)
                    yield chunk
            except UrlUnavailable as error:
                if resumed == _RESUMES or first.validator is None or first.size is None or received >= first.size:
                    raise
                log.event(logger, "fetch_broke_off", job=job, bytes=received, detail=error.detail)
            else:
                if resumed and received != first.size:
                    raise _NoRestError
                return
            await self._clock.sleep(_PAUSE_SECONDS * 2**resumed)
            resumed += 1
            chunks = self._rest(url, visits, Part(received, first.size, first.validator))

    async def _rest(self, url: str, visits: AsyncExitStack, after: Part) -> AsyncIterator[bytes]:
        fetched = await visits.enter_async_context(self._visitor.fetch(url, after))
        if not fetched.goes_on:
            raise _NoRestError
        async for chunk in fetched.chunks:
            yield chunk

    async def _told(self, job: str, chunks: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
        begun, last, received = self._clock.monotonic(), -math.inf, 0
        async for chunk in chunks:
            received += len(chunk)
            now = self._clock.monotonic()
            if now - last >= _PROGRESS_SECONDS or received == size:
                last = now
                self._publish(job, received, size, now - begun)
            yield chunk
        if not received:
            raise UrlRefused("expected a file at the URL, got one without a byte; check the URL")

    def _publish(self, job: str, received: int, size: int | None, seconds: float) -> None:
        if not size:
            self._events.publish_progress(job, JobProgress(0, fetched=received))
            return
        permille = min(1000, received * 1000 // size)
        self._events.publish_progress(
            job, JobProgress(permille, seconds * (size - received) / received, fetched=received)
        )
