"""Taking jobs in: look things up, probe what is new, decide, write."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import assert_never

from orchestrator.core.scheduling import NodeState
from orchestrator.core.submission import Plan, plan_inference, plan_transcode, quote_of, submission_of
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.store import Store
from tandem import logging as log
from tandem.protocol.api import QuoteView
from tandem.protocol.ids import job_id
from tandem.protocol.jobs import InferenceRequest, TranscodeRequest
from tandem.protocol.media import Source
from tandem.protocol.pricing import Prices

logger = logging.getLogger(__name__)


class Submissions:
    """Quotes and new jobs. `crew`: the nodes over which a job may be split.

    `wake` is called after each submission, to have it scheduled now rather than soon.
    """

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        inspector: Inspector,
        prices: Prices,
        crew: Callable[[], Sequence[NodeState]],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector
        self._prices = prices
        self._crew = crew
        self._wake = wake

    async def quote(self, request: TranscodeRequest | InferenceRequest) -> QuoteView:
        """What the job would cost; raises whatever `submit` would. Nothing is stored but the probe of the source."""
        return quote_of(await self._plan(request))

    async def submit(
        self, request: TranscodeRequest | InferenceRequest, owner: str, idempotency_key: str | None = None
    ) -> str:
        """Writes the job and returns its id; under an idempotency key that the owner used before, the first one's.

        Raises NotFound (artifact, model), UnreadableMedia, InvalidLadder, InvalidTensor, TooLarge,
        IdempotencyConflict, Unavailable.
        """
        plan = await self._plan(request)
        now = await self._store.now()
        job = await self._store.submit(submission_of(plan, job_id(now, os.urandom(8)), owner, now, idempotency_key))
        log.event(logger, "submitted", job=job, tasks=len(plan.parts), whole_because=plan.whole_because)
        self._wake()
        return job

    async def _plan(self, request: TranscodeRequest | InferenceRequest) -> Plan:
        match request:
            case TranscodeRequest():
                source = await self._store.artifact(request.input.artifact)
                found = await self._source(source.id)
                # Where to cut takes a moment for hours of video.
                return await asyncio.to_thread(plan_transcode, request, source, found, self._prices, self._crew())
            case InferenceRequest():
                return await self._plan_inference(request)
            case _:
                assert_never(request)

    async def _plan_inference(self, request: InferenceRequest) -> Plan:
        model = await self._store.model(request.model, request.version)
        # Lists of millions of numbers take seconds to convert: the event loop keeps turning meanwhile.
        return await asyncio.to_thread(plan_inference, request, model, self._prices)

    async def _source(self, artifact_id: str) -> Source:
        known = await self._store.source(artifact_id)
        if known is not None:
            return known
        async with self._artifacts.local(artifact_id) as path:
            source = await self._inspector.media(path)
        await self._store.save_media(artifact_id, source)
        return source
