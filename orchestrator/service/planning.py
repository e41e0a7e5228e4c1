"""From a request to a plan: look things up, probe what is new, decide."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

from orchestrator.core.scheduling import NodeState
from orchestrator.core.submission import Kept, Plan, plan_batch, plan_inference, plan_transcode, wanted_outputs
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.store import Store
from orchestrator.service.batches import BatchFiles
from tandem.inspection.images import MAX_IMAGE_BYTES, image_format
from tandem.protocol.errors import InvalidRequest, TooLarge
from tandem.protocol.jobs import AnyRequest, ArtifactInput, BatchRequest, InferenceRequest, TranscodeRequest
from tandem.protocol.ladder import Watermark, WatermarkRequest
from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.models import ModelInfo
from tandem.protocol.pricing import Prices

FindModel = Callable[[str, str, str | None], Awaitable[ModelInfo]]
"""By owner, name and version, which is the latest if it is None. Raises NotFound."""


class Planning:
    """`crew`: the nodes over which a job may be split."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        inspector: Inspector,
        batches: BatchFiles,
        prices: Prices,
        crew: Callable[[], Sequence[NodeState]],
        find_model: FindModel,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector
        self._batches = batches
        self._prices = prices
        self._crew = crew
        self._find_model = find_model

    async def plan(self, request: AnyRequest, owner: str, source: str | None = None, *, keep: bool = False) -> Plan:
        """What is to be done for this key and what it costs; `source` is the artifact that a URL has become.

        `keep`: the rows of a batch are made an artifact, for tasks that are about to be queued.

        Raises NotFound (artifact, model), UnreadableMedia, UnreadableBatch, InvalidLadder, InvalidTensor, TooLarge,
        PriceExceeded, Unavailable; InvalidRequest for a URL that has become none yet.
        """
        match request:
            case TranscodeRequest():
                artifact = await self._store.artifact(source or _artifact(request))
                found = await self._source(artifact.id, measured=request.ladder is None)
                mark = await self._watermark(request.watermark) if request.watermark is not None else None
                # Where to cut takes a moment for hours of video.
                return await asyncio.to_thread(
                    plan_transcode, request, artifact, found, self._prices, self._crew(), mark
                )
            case InferenceRequest():
                return await self._plan_inference(request, owner)
            case BatchRequest():
                return await self._plan_batch(request, owner, source or _artifact(request), keep=keep)
            case _:
                assert_never(request)

    async def pinned(self, request: BatchRequest, owner: str) -> BatchRequest:
        """With the version that is meant now, and checked as far as can be before the file is looked into.

        Raises NotFound (artifact, model), InvalidTensor.
        """
        model = await self._find_model(owner, request.model, request.version)
        wanted_outputs(request, model)
        if isinstance(request.input, ArtifactInput):
            await self._store.artifact(request.input.artifact)
        return request.model_copy(update={"version": model.version})

    async def _plan_batch(self, request: BatchRequest, owner: str, source: str, *, keep: bool) -> Plan:
        await self._store.artifact(source)
        model = await self._find_model(owner, request.model, request.version)
        outputs = wanted_outputs(request, model)
        if keep:
            found, rows = await self._batches.rows(source, request, model, outputs)
        else:
            found, rows = await self._batches.look(source, request, model, outputs), source
        return plan_batch(request, model, found, Kept(source, rows), self._prices, self._crew())

    async def _plan_inference(self, request: InferenceRequest, owner: str) -> Plan:
        model = await self._find_model(owner, request.model, request.version)
        # Lists of millions of numbers take seconds to convert: the event loop keeps turning meanwhile.
        return await asyncio.to_thread(plan_inference, request, model, self._prices)

    async def _source(self, artifact_id: str, *, measured: bool) -> Source:
        """What is in it; `measured`: also how hard it is to encode."""
        known = await self._store.source(artifact_id)
        if known is not None and not (measured and _unmeasured(known.media)):
            return known
        async with self._artifacts.local(artifact_id) as path:
            source = known or await self._inspector.media(path)
            if measured and _unmeasured(source.media):
                found = await self._inspector.complexity(path, source.media)
                source = source.model_copy(update={"media": source.media.model_copy(update={"complexity": found})})
        await self._store.save_media(artifact_id, source)
        return source

    async def _watermark(self, asked: WatermarkRequest) -> Watermark:
        record = await self._store.artifact(asked.artifact)
        if record.size > MAX_IMAGE_BYTES:
            raise TooLarge(f"expected a watermark of at most {MAX_IMAGE_BYTES} bytes, got one of {record.size}")
        async with self._artifacts.local(record.id) as path:
            kind = image_format(await asyncio.to_thread(path.read_bytes))
        return Watermark(**asked.model_dump(), size=record.size, format=kind)


def _unmeasured(media: MediaInfo) -> bool:
    return media.video is not None and media.duration_us > 0 and media.complexity is None


def _artifact(request: TranscodeRequest | BatchRequest) -> str:
    if isinstance(request.input, ArtifactInput):
        return request.input.artifact
    raise InvalidRequest(
        "expected an artifact as input, got a URL, of which nothing is known before it is fetched; "
        "upload the file to have a quote, or submit the job with a max_price"
    )
