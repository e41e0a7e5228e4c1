"""Records as the API shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from orchestrator.core.records import AttemptRecord, DeliveryRecord, ExportRecord, Failure, JobSnapshot, WebhookRecord
from orchestrator.core.scheduling import Reason
from tandem.protocol.api import (
    AttemptView,
    DeliveryView,
    Explanation,
    ExportView,
    InferenceEcho,
    InferenceResult,
    JobSummary,
    JobView,
    NodeObstacles,
    NodeSummary,
    ObstacleView,
    PriceView,
    Problem,
    ProgressView,
    RenditionView,
    TensorEcho,
    TranscodeResult,
    WaitingTask,
    WebhookEvent,
    WebhookView,
)
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import (
    AttemptState,
    InferenceOutput,
    InferenceRequest,
    JobState,
    RenditionResult,
    TaskState,
    TranscodeOutput,
    TranscodeRequest,
)
from tandem.protocol.media import MediaInfo
from tandem.protocol.messages import Offer
from tandem.protocol.tensors import tensor_to_json
from tandem.protocol.webhooks import DeliveryStatus


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with a live session."""

    address: str
    offer: Offer
    connected_at: float
    """Seconds since the epoch."""
    running: tuple[AttemptRef, ...] = ()
    earned: int = 0
    """Wei of accepted attempts, since the beginning."""
    issued: int = 0
    """Wei of expected value of signed tickets, refused ones included, since the beginning."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is: thousandths, and seconds left if that can be told."""

    permille: int
    remaining: float | None = None
    fetched: int | None = None
    """Bytes of an input that is being fetched."""


NOT_BEGUN = JobProgress(0)


def artifact_path(artifact_id: str) -> str:
    return f"/v1/artifacts/{artifact_id}"


def progress_view(progress: JobProgress) -> ProgressView:
    return ProgressView(
        percent=progress.permille / 10, remaining_seconds=progress.remaining, fetched_bytes=progress.fetched
    )


def job_summary(snapshot: JobSnapshot, progress: JobProgress = NOT_BEGUN) -> JobSummary:
    job = snapshot.job
    done = job.state is JobState.SUCCEEDED
    charged = sum(attempt.price for attempt in _accepted(snapshot))
    return JobSummary(
        id=job.id,
        kind=job.request.kind,
        state=job.state,
        created_at=_time(job.created_at),
        finished_at=_time_or_none(job.finished_at),
        progress=ProgressView(percent=100, remaining_seconds=0) if done else progress_view(progress),
        price=PriceView(quoted=job.price, charged=charged),
        error=_problem(job.failure),
    )


def job_view(
    snapshot: JobSnapshot,
    media: Mapping[str, MediaInfo],
    progress: JobProgress = NOT_BEGUN,
    export: ExportRecord | None = None,
) -> JobView:
    """The whole job; `media` has what verification found in the renditions, by artifact."""
    return JobView(
        **dict(job_summary(snapshot, progress)),
        request=_request(snapshot.job.request),
        result=_result(snapshot, media) if _is_done(snapshot) else None,
        attempts=tuple(_attempt(attempt) for attempt in snapshot.attempts),
        export=ExportView(written=export.written, tries=export.tries, error=export.error) if export else None,
    )


def _is_done(snapshot: JobSnapshot) -> bool:
    """Whether there are results; those that could not be exported are there all the same."""
    done = bool(snapshot.tasks) and all(task.state is TaskState.DONE for task in snapshot.tasks)
    return done or snapshot.job.state is JobState.SUCCEEDED


def explanation(snapshot: JobSnapshot, reasons: Mapping[str, Mapping[str, Sequence[Reason]]]) -> Explanation:
    """Of the tasks in `reasons`, which says for each node what stands in the way."""
    return Explanation(
        state=snapshot.job.state,
        waiting=tuple(
            WaitingTask(task=task.id, not_before=_time(task.not_before), nodes=_obstacles(reasons[task.id]))
            for task in snapshot.tasks
            if task.id in reasons
        ),
    )


def _obstacles(nodes: Mapping[str, Sequence[Reason]]) -> tuple[NodeObstacles, ...]:
    return tuple(
        NodeObstacles(
            node=node, obstacles=tuple(ObstacleView(obstacle=each.obstacle, detail=each.detail) for each in found)
        )
        for node, found in nodes.items()
    )


def rendition_results(snapshot: JobSnapshot) -> tuple[RenditionResult, ...]:
    """The renditions of accepted attempts, in the order of the tasks."""
    outputs = [attempt.output for attempt in _accepted(snapshot)]
    return tuple(
        rendition for output in outputs if isinstance(output, TranscodeOutput) for rendition in output.renditions
    )


def node_summary(node: NodeView) -> NodeSummary:
    return NodeSummary(
        address=node.address,
        connected_at=_time(node.connected_at),
        draining=node.offer.draining,
        capability=node.offer.capability,
        capacity=node.offer.capacity,
        prices=node.offer.prices,
        running=tuple(str(ref) for ref in node.running),
        earned=node.earned,
        issued=node.issued,
    )


def webhook_view(webhook: WebhookRecord, *, secret: bool = False) -> WebhookView:
    """`secret`: whether it is shown."""
    return WebhookView(
        url=webhook.url, secret=webhook.secret if secret else None, secret_made_at=_time(webhook.made_at)
    )


def delivery_view(delivery: DeliveryRecord) -> DeliveryView:
    pending = delivery.status is DeliveryStatus.PENDING
    return DeliveryView(
        id=delivery.id,
        job=delivery.job,
        type=f"job.{delivery.state}",
        url=delivery.url,
        status=delivery.status,
        happened_at=_time(delivery.at),
        tries=delivery.tries,
        next_try_at=_time(max(delivery.not_before, delivery.since)) if pending else None,
        delivered_at=_time_or_none(delivery.delivered_at),
        error=delivery.error,
    )


def webhook_event(delivery: DeliveryRecord, job: JobView) -> WebhookEvent:
    """What is sent of a job's step to a state, given the job as it stands now."""
    if job.state is not delivery.state:
        then = {"state": delivery.state, "finished_at": None, "error": None, "result": None}
        job = job.model_copy(update=then | {"progress": ProgressView(percent=0)})
    return WebhookEvent(id=delivery.id, type=f"job.{delivery.state}", timestamp=_time(delivery.at), data=job)


def _accepted(snapshot: JobSnapshot) -> tuple[AttemptRecord, ...]:
    return tuple(attempt for attempt in snapshot.attempts if attempt.state is AttemptState.ACCEPTED)


def _request(request: TranscodeRequest | InferenceRequest) -> TranscodeRequest | InferenceEcho:
    match request:
        case TranscodeRequest():
            return request
        case InferenceRequest():
            inputs = tuple(
                TensorEcho(name=each.name, datatype=each.datatype, shape=each.shape) for each in request.inputs
            )
            return InferenceEcho(
                model=request.model,
                version=request.version,
                inputs=inputs,
                max_price=request.max_price,
                webhook=request.webhook,
            )
        case _:
            assert_never(request)


def _result(snapshot: JobSnapshot, media: Mapping[str, MediaInfo]) -> TranscodeResult | InferenceResult | None:
    for attempt in _accepted(snapshot):
        match attempt.output:
            case InferenceOutput(provider=provider):
                outputs = tuple(tensor_to_json(tensor) for tensor in attempt.tensors)
                return InferenceResult(outputs=outputs, provider=provider)
            case TranscodeOutput():
                renditions = rendition_results(snapshot)
                return TranscodeResult(renditions=tuple(_rendition(each, media) for each in renditions))
            case None:
                pass
            case _:
                assert_never(attempt.output)
    return None


def _rendition(result: RenditionResult, media: Mapping[str, MediaInfo]) -> RenditionView:
    base = RenditionView(
        name=result.name, artifact=result.artifact, url=artifact_path(result.artifact), size=result.size
    )
    info = media.get(result.artifact)
    if info is None or info.video is None:
        return base
    width, height = info.video.display_size
    facts = {
        "width": width,
        "height": height,
        "frames": info.video.frames,
        "bitrate": result.size * 8 * 10**6 // max(1, info.duration_us),
        "duration_seconds": info.duration_us / 10**6,
        "video_codec": info.video.codec,
        "audio_codec": info.audio[0].codec if info.audio else None,
    }
    return base.model_copy(update=facts)


def _attempt(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        task=attempt.ref.task,
        number=attempt.ref.number,
        node=attempt.node,
        state=attempt.state,
        price=attempt.price,
        started_at=_time(attempt.started_at),
        finished_at=_time_or_none(attempt.finished_at),
        error=_problem(attempt.failure),
    )


def _problem(failure: Failure | None) -> Problem | None:
    return Problem.of(failure.code, failure.detail) if failure else None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)
