"""From a request to a plan: look things up, probe what is new, decide."""

import asyncio
from typing import assert_never

from orchestrator.core.submission import Plan, plan_inference, plan_transcode
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.store import Store
from tandem.protocol.errors import InvalidRequest
from tandem.protocol.jobs import ArtifactInput, InferenceRequest, TranscodeRequest
from tandem.protocol.media import MediaInfo
from tandem.protocol.pricing import Prices


class Planning:
    def __init__(self, store: Store, artifacts: ArtifactStore, inspector: Inspector, prices: Prices) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector
        self._prices = prices

    async def plan(self, request: TranscodeRequest | InferenceRequest, source: str | None = None) -> Plan:
        """What is to be done and what it costs; `source` is the artifact that a URL has become.

        Raises NotFound (artifact, model), UnreadableMedia, InvalidLadder, InvalidTensor, TooLarge, PriceExceeded,
        Unavailable; InvalidRequest for a URL that has become none yet.
        """
        match request:
            case TranscodeRequest():
                artifact = await self._store.artifact(source or _artifact(request))
                return plan_transcode(request, artifact, await self._media(artifact.id), self._prices)
            case InferenceRequest():
                return await self._plan_inference(request)
            case _:
                assert_never(request)

    async def _plan_inference(self, request: InferenceRequest) -> Plan:
        model = await self._store.model(request.model, request.version)
        # Lists of millions of numbers take seconds to convert: the event loop keeps turning meanwhile.
        return await asyncio.to_thread(plan_inference, request, model, self._prices)

    async def _media(self, artifact_id: str) -> MediaInfo:
        known = await self._store.media(artifact_id)
        if known is not None:
            return known
        async with self._artifacts.local(artifact_id) as path:
            media = await self._inspector.media(path)
        await self._store.save_media(artifact_id, media)
        return media


def _artifact(request: TranscodeRequest) -> str:
    if isinstance(request.input, ArtifactInput):
        return request.input.artifact
    raise InvalidRequest(
        "expected an artifact as input, got a URL, of which nothing is known before it is fetched; "
        "upload the file to have a quote, or submit the job with a max_price"
    )
