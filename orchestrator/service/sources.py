"""URLs become artifacts, and whoever watches the job sees them come."""

import logging
import math
from collections.abc import AsyncIterator

from orchestrator.core.progress import JobProgress
from orchestrator.core.records import ArtifactRecord
from orchestrator.ports.visiting import Fetched, Visitor
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.events import JobEvents
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import Unavailable, UrlRefused

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.25


class Sources:
    def __init__(self, artifacts: Artifacts, visitor: Visitor, events: JobEvents, clock: Clock) -> None:
        self._artifacts = artifacts
        self._visitor = visitor
        self._events = events
        self._clock = clock

    async def fetch(self, job: str, url: str) -> ArtifactRecord:
        """Raises UrlForbidden, UrlRefused, UrlUnavailable, TooLarge; Unavailable if it cannot be kept."""
        begun = self._clock.monotonic()
        async with self._visitor.fetch(url) as fetched:
            try:
                record = await self._artifacts.upload(self._told(job, fetched), fetched.media_type, fetched.size)
            except OSError as error:
                raise Unavailable(f"expected to store the input of {job}, got {error.strerror}") from error
        seconds = round(self._clock.monotonic() - begun, 3)
        log.event(logger, "input_fetched", job=job, artifact=record.id, bytes=record.size, seconds=seconds)
        return record

    async def _told(self, job: str, fetched: Fetched) -> AsyncIterator[bytes]:
        begun, last, received = self._clock.monotonic(), -math.inf, 0
        async for chunk in fetched.chunks:
            received += len(chunk)
            now = self._clock.monotonic()
            if now - last >= _PROGRESS_SECONDS or received == fetched.size:
                last = now
                self._publish(job, received, fetched.size, now - begun)
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
