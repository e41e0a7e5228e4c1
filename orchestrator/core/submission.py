"""From a request to a job: every check and every default, decided from data alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard, assert_never

from orchestrator.core.records import ArtifactRecord, JobRecord, Once, Submission, TaskRecord
from orchestrator.core.scheduling import NodeState, lanes_of, speeds
from orchestrator.core.sharding import BatchFacts, shards
from orchestrator.core.splitting import split
from orchestrator.core.transcoding import decide
from tandem.protocol.api import QuoteView
from tandem.protocol.codec import MAX_CONTROL_BYTES, MAX_FRAME_BYTES
from tandem.protocol.errors import (
    InvalidLadder,
    InvalidRequest,
    InvalidTensor,
    PriceExceeded,
    TooLarge,
    UnreadableMedia,
)
from tandem.protocol.ids import task_id
from tandem.protocol.jobs import (
    AnyRequest,
    AnyWork,
    ArtifactInput,
    BatchRequest,
    BatchWork,
    BucketForm,
    InferenceRequest,
    InferenceWork,
    JobState,
    TaskState,
    TranscodeRequest,
    TranscodeWork,
    UrlInput,
    uploads_of,
)
from tandem.protocol.ladder import Container, Watermark
from tandem.protocol.media import MAX_DURATION_US, MediaInfo, Source
from tandem.protocol.models import ModelInfo
from tandem.protocol.pricing import Prices, inference_cost, inference_price, transcode_price
from tandem.protocol.tensors import Tensor, TensorSpec, check_tensors, element_size, elements, tensor_from_json

_MICRO = 10**6

MAX_TENSOR_BYTES = MAX_FRAME_BYTES - MAX_CONTROL_BYTES
"""Tensors of one job: with its message they must fit one frame of the node session."""


class Kept(NamedTuple):
    """The artifacts of a batch's inputs."""

    source: str
    """As the submitter gave it."""
    rows: str
    """As a file of rows."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one task is to do, and the most that it may cost, in wei."""

    work: AnyWork
    price: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that could be submitted: what is to be done and what it costs, in wei."""

    request: AnyRequest
    """Less the tensors' data."""
    work: AnyWork
    """All of it."""
    parts: tuple[Part, ...]
    """The same as tasks."""
    artifacts: tuple[str, ...]
    """Those that must be kept for the job."""
    inputs: tuple[Tensor, ...] = ()
    whole_because: str | None = None
    """Why a transcode is not split."""

    @property
    def price(self) -> int:
        return sum(part.price for part in self.parts)


def plan_transcode(
    request: TranscodeRequest,
    source: ArtifactRecord,
    found: Source,
    prices: Prices,
    crew: Sequence[NodeState] = (),
    watermark: Watermark | None = None,
) -> Plan:
    """Splits it if that makes it faster on the nodes of `crew`.

    Raises UnreadableMedia, InvalidLadder, InvalidRequest, PriceExceeded; TooLarge if the source runs too long.
    """
    _check_source(found.media)
    work = decide(request, source, found.media, watermark, found.keyframes)
    _check_uploads(request, [rendition.name for rendition in work.video])
    price = _price(prices, work)
    cut = split(work, found.keyframes, speeds(work, price, crew), _cell(request, work), found.layout)
    parts = tuple(Part(part, _price(prices, part)) for part in cut.works)
    kept = (source.id,) if watermark is None else (source.id, watermark.artifact)
    return _affordable(Plan(request, work, parts, kept, whole_because=cut.whole_because))


def _price(prices: Prices, work: TranscodeWork) -> int:
    price = transcode_price(prices, work)
    if price is None:
        raise InvalidLadder(f"expected codecs out of {sorted(prices.megapixel)}, got {sorted(work.pixels())}")
    return price


def _cell(request: TranscodeRequest, work: TranscodeWork) -> int:
    """Microseconds: windows are whole segments, where there are any, or whole GOPs."""
    gops = 1 if work.direct else round(request.output.segment_seconds * _MICRO / work.picture.gop_us)
    return max(1, gops) * work.picture.gop_us


def _check_uploads(request: TranscodeRequest, names: Sequence[str]) -> None:
    uploads = uploads_of(request)
    if isinstance(uploads, BucketForm):
        return
    if uploads and request.output.container is not Container.MP4:
        raise InvalidRequest(
            f"output.upload: expected the container mp4 for URLs by rendition, got {request.output.container}; "
            "give a presigned POST, with `url` and `fields`"
        )
    strange = sorted(set(uploads) - set(names))
    if strange:
        raise InvalidRequest(f"output.upload: expected names of renditions, which are {list(names)}, got {strange}")


def _affordable(plan: Plan) -> Plan:
    limit = plan.request.max_price
    if limit is not None and plan.price > limit:
        raise PriceExceeded(
            f"expected a job of at most {limit} wei, its max_price, got one of {plan.price} wei; "
            "raise max_price or ask for less"
        )
    return plan


def _check_source(media: MediaInfo) -> None:
    if media.duration_us > MAX_DURATION_US:
        hours = MAX_DURATION_US // 3_600_000_000
        raise TooLarge(
            f"expected a source of at most {hours} hours, got {media.duration_us / 3.6e9:.1f}; cut it into parts"
        )
    if media.video is not None and not (media.duration_us and media.video.frames):
        raise UnreadableMedia("expected a video with frames and a duration, got an empty one; check the file")


def plan_inference(request: InferenceRequest, model: ModelInfo, prices: Prices) -> Plan:
    """Raises InvalidTensor, PriceExceeded, or TooLarge if inputs or outputs fit no message to or from a node."""
    inputs = tuple(tensor_from_json(tensor) for tensor in request.inputs)
    check_tensors(model.inputs, inputs)
    _check_size("inputs", sum(len(tensor.data) for tensor in inputs))
    _check_size("outputs", sum(_least_size(spec) for spec in model.outputs))
    metas = tuple(tensor.meta for tensor in inputs)
    cost_us = inference_cost(model.cost_us, model.cost_inputs, metas)
    work = InferenceWork(
        model=model.artifact,
        model_size=model.size,
        files=model.files,
        inputs=metas,
        outputs=model.outputs,
        cost_us=cost_us,
    )
    parts = (Part(work, inference_price(prices, cost_us)),)
    return _affordable(
        Plan(
            _without_data(request, model.version),
            work,
            parts,
            (model.artifact, *(file.artifact for file in model.files)),
            inputs,
        )
    )


def plan_batch(
    request: BatchRequest, model: ModelInfo, found: BatchFacts, kept: Kept, prices: Prices, crew: Sequence[NodeState]
) -> Plan:
    """Cut into shards for the nodes of `crew`. Raises InvalidTensor, PriceExceeded."""
    outputs = wanted_outputs(request, model)
    work = BatchWork(
        model=model.artifact,
        model_size=model.size,
        files=model.files,
        max_batch=model.settings.max_batch if model.batchable else 1,
        source=kept.rows,
        source_size=found.size,
        span=(0, found.size),
        rows=found.rows,
        faulty=found.faulty,
        format=found.format,
        outputs=outputs,
        cost_us=found.units * model.cost_us,
    )
    lanes = lanes_of(work, crew)
    row_bytes = sum(_least_size(spec) for spec in outputs)
    works = [
        work.model_copy(
            update={
                "span": (shard.start, shard.end),
                "rows": shard.rows,
                "faulty": shard.faulty,
                "cost_us": shard.units * model.cost_us,
            }
        )
        for shard in shards(found.blocks, model.cost_us, lanes, row_bytes)
    ]
    parts = tuple(Part(each, inference_price(prices, each.cost_us)) for each in works)
    return _affordable(Plan(request, work, parts, (*kept, model.artifact, *(file.artifact for file in model.files))))


def wanted_outputs(request: BatchRequest, model: ModelInfo) -> tuple[TensorSpec, ...]:
    """In the order in which they are asked for, or in the model's. Raises InvalidTensor."""
    known = {spec.name: spec for spec in model.outputs}
    names = request.outputs or tuple(known)
    if len(set(names)) < len(names) or not known.keys() >= set(names):
        raise InvalidTensor(f"outputs: expected some of {sorted(known)}, each once, got {list(names)}")
    return tuple(known[name] for name in names)


def _check_size(what: str, size: int) -> None:
    if size > MAX_TENSOR_BYTES:
        raise TooLarge(f"expected {what} of at most {MAX_TENSOR_BYTES} bytes in all, got {size}; send a smaller batch")


def _least_size(spec: TensorSpec) -> int:
    """Bytes of the tensor with every open dimension at 1."""
    return (element_size(spec.datatype) or 0) * elements([abs(size) for size in spec.shape])


def _without_data(request: InferenceRequest, version: str) -> InferenceRequest:
    bare = tuple(tensor.model_copy(update={"data": []}) for tensor in request.inputs)
    return request.model_copy(update={"inputs": bare, "version": version})


def quote_of(plan: Plan) -> QuoteView:
    match plan.work:
        case TranscodeWork(video=ladder, audio=audio):
            return QuoteView(
                kind="transcode",
                price=plan.price,
                ladder=ladder,
                audio=audio,
                tasks=len(plan.parts),
                whole_because=plan.whole_because,
            )
        case InferenceWork(cost_us=cost_us):
            return QuoteView(kind="inference", price=plan.price, cost_us=cost_us)
        case BatchWork(cost_us=cost_us, rows=rows, faulty=faulty):
            return QuoteView(
                kind="batch_inference",
                price=plan.price,
                cost_us=cost_us,
                rows=rows,
                faulty_rows=faulty,
                tasks=len(plan.parts),
            )
        case _:
            assert_never(plan.work)


def tasks_of(plan: Plan, job: str) -> tuple[TaskRecord, ...]:
    """The tasks of a job that is about to be queued, waiting."""
    return tuple(
        TaskRecord(id=task_id(job, index), work=part.work, state=TaskState.WAITING, price=part.price)
        for index, part in enumerate(plan.parts)
    )


def once(idempotency_key: str, request: AnyRequest) -> Once:
    """For a request as it came: what is looked up for it may be another thing the next time."""
    # Not by pydantic, for which NaN and the infinities of a tensor are the same.
    return Once(idempotency_key, hashlib.sha256(json.dumps(request.model_dump()).encode()).digest())


@dataclass(frozen=True, slots=True)
class Frame:
    """What a new job has beside its request."""

    job: str
    owner: str
    now: float
    once: Once | None = None
    webhook: str | None = None
    """The URL that is told of its states."""


def submission_of(plan: Plan, frame: Frame) -> Submission:
    """The rows of a new job of which everything is known."""
    return Submission(
        job=_record(plan.request, frame, JobState.QUEUED, plan.price),
        tasks=tasks_of(plan, frame.job),
        inputs=plan.inputs,
        artifacts=plan.artifacts,
        once=frame.once,
    )


def needs_preparation(request: AnyRequest) -> TypeGuard[TranscodeRequest | BatchRequest]:
    """Whether more has to be found out about the job than a submitter should wait for."""
    if isinstance(request, BatchRequest):
        return True
    return isinstance(request, TranscodeRequest) and isinstance(request.input, UrlInput)


def unprepared_submission(request: TranscodeRequest | BatchRequest, frame: Frame) -> Submission:
    """The rows of a new job that has to be prepared first: no tasks yet, and no price."""
    return Submission(
        job=_record(request, frame, JobState.PREPARING, None),
        tasks=(),
        artifacts=(request.input.artifact,) if isinstance(request.input, ArtifactInput) else (),
        once=frame.once,
    )


def _record(request: AnyRequest, frame: Frame, state: JobState, price: int | None) -> JobRecord:
    return JobRecord(
        id=frame.job,
        owner=frame.owner,
        request=request,
        state=state,
        price=price,
        created_at=frame.now,
        webhook=frame.webhook,
    )
