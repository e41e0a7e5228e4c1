"""Records as the API shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import assert_never

from orchestrator.core.packaging import JobFile
from orchestrator.core.playlists import Presentation, Shown
from orchestrator.core.progress import NOT_BEGUN, JobProgress
from orchestrator.core.records import (
    AttemptRecord,
    DeliveryRecord,
    ExportRecord,
    Failure,
    JobSnapshot,
    UsageRecord,
    WebhookRecord,
)
from orchestrator.core.scheduling import Reason
from tandem.protocol.api import (
    AttemptView,
    BatchResult,
    DeliveryView,
    Explanation,
    ExportView,
    InferenceEcho,
    InferenceResult,
    JobSummary,
    JobView,
    ModelView,
    NodeObstacles,
    NodeSummary,
    ObstacleView,
    PriceView,
    Problem,
    ProgressView,
    RenditionProgressView,
    RenditionView,
    TensorEcho,
    TranscodeResult,
    UsageView,
    WaitingTask,
    WebhookEvent,
    WebhookView,
)
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import (
    AnyRequest,
    AttemptState,
    BatchRequest,
    InferenceRequest,
    JobState,
    TaskState,
    TranscodeRequest,
)
from tandem.protocol.media import MediaInfo
from tandem.protocol.messages import Offer
from tandem.protocol.models import ModelInfo
from tandem.protocol.outputs import BatchOutput, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import tensor_to_json
from tandem.protocol.webhooks import DeliveryStatus

_MICRO = 10**6


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
    withheld: Reason | None = None
    """Why it gets no work."""


def artifact_path(artifact_id: str) -> str:
    return f"/v1/artifacts/{artifact_id}"


def model_view(model: ModelInfo, *, own: bool, answers: bool) -> ModelView:
    return ModelView(
        name=model.name,
        version=model.version,
        digest=model.digest,
        artifact=model.artifact,
        size=model.size,
        files=model.files,
        inputs=model.inputs,
        outputs=model.outputs,
        opset=model.opset,
        cost_us=model.cost_us,
        measured=model.measured,
        memory=model.memory,
        batchable=model.batchable,
        unbatchable=model.unbatchable,
        unrepeatable=model.unrepeatable,
        settings=model.settings,
        public=model.public,
        own=own,
        answers=answers,
        created_at=_time(model.created_at),
    )


def progress_view(progress: JobProgress) -> ProgressView:
    return ProgressView(
        percent=progress.permille / 10,
        remaining_seconds=progress.remaining,
        speed=progress.speed,
        renditions=tuple(
            RenditionProgressView(name=each.name, percent=each.permille / 10) for each in progress.renditions
        ),
        fetched_bytes=progress.fetched,
        rows=progress.rows[0] if progress.rows else None,
        rows_total=progress.rows[1] if progress.rows else None,
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
    given: tuple[RenditionView, ...] | BatchResult | None = (),
    progress: JobProgress = NOT_BEGUN,
    export: ExportRecord | None = None,
) -> JobView:
    """The whole job; `given`: the renditions of a transcode that has all its results, or the file of a batch."""
    summary = job_summary(snapshot, progress)
    if isinstance(given, BatchResult) and summary.state is JobState.SUCCEEDED:
        counted = {"rows": given.rows, "rows_total": given.rows}
        summary = summary.model_copy(update={"progress": summary.progress.model_copy(update=counted)})
    return JobView(
        **dict(summary),
        request=_request(snapshot.job.request),
        result=_result(snapshot, given) if is_done(snapshot) else None,
        attempts=tuple(_attempt(attempt) for attempt in snapshot.attempts),
        export=ExportView(written=export.written, tries=export.tries, error=export.error) if export else None,
    )


def is_done(snapshot: JobSnapshot) -> bool:
    """Whether there are results; those that could not be exported are there all the same."""
    done = bool(snapshot.tasks) and all(task.state is TaskState.DONE for task in snapshot.tasks)
    return (done and snapshot.job.state is not JobState.VERIFYING) or snapshot.job.state is JobState.SUCCEEDED


def explanation(snapshot: JobSnapshot, reasons: Mapping[str, Mapping[str, Sequence[Reason]]]) -> Explanation:
    """Of the tasks in `reasons`, which says for each node what stands in the way."""
    return Explanation(
        state=snapshot.job.state,
        waiting=tuple(
            WaitingTask(
                task=task.id,
                not_before=_time(task.not_before) if task.not_before else None,
                nodes=_obstacles(reasons[task.id]),
            )
            for task in snapshot.tasks
            if task.id in reasons
        ),
    )


def _obstacles(nodes: Mapping[str, Sequence[Reason]]) -> tuple[NodeObstacles, ...]:
    return tuple(NodeObstacles(node=node, obstacles=tuple(map(_obstacle, found))) for node, found in nodes.items())


def _obstacle(reason: Reason) -> ObstacleView:
    return ObstacleView(obstacle=reason.obstacle, detail=reason.detail)


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
        withheld=_obstacle(node.withheld) if node.withheld else None,
    )


def webhook_view(webhook: WebhookRecord, *, secret: bool = False) -> WebhookView:
    """`secret`: whether it is shown."""
    return WebhookView(
        url=webhook.url, secret=webhook.secret if secret else None, secret_made_at=_time(webhook.made_at)
    )


def usage_view(record: UsageRecord) -> UsageView:
    return UsageView(
        day=date.fromisoformat(record.day),
        model=record.model,
        version=record.version,
        requests=record.requests,
        price=record.price,
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


def _request(request: AnyRequest) -> TranscodeRequest | InferenceEcho | BatchRequest:
    match request:
        case TranscodeRequest() | BatchRequest():
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


def _result(
    snapshot: JobSnapshot, given: tuple[RenditionView, ...] | BatchResult | None
) -> TranscodeResult | InferenceResult | BatchResult | None:
    if not isinstance(given, tuple):
        return given
    for attempt in snapshot.attempts:
        match attempt.output if attempt.state is AttemptState.ACCEPTED else None:
            case InferenceOutput(provider=provider):
                outputs = tuple(tensor_to_json(tensor) for tensor in attempt.tensors)
                return InferenceResult(outputs=outputs, provider=provider)
            case TranscodeOutput():
                return TranscodeResult(renditions=given)
            case BatchOutput() | None:
                pass
            case _:
                assert_never(attempt.output)
    return None


def mp4_view(name: str, file: JobFile, media: MediaInfo | None) -> RenditionView:
    """`media`: what verification found in the file."""
    base = RenditionView(name=name, artifact=file.artifact, url=artifact_path(file.artifact), size=file.size)
    if media is None or media.video is None:
        return base
    width, height = media.video.display_size
    facts = {
        "width": width,
        "height": height,
        "frames": media.video.frames,
        "bitrate": file.size * 8 * _MICRO // max(1, media.duration_us),
        "duration_seconds": media.duration_us / _MICRO,
        "video_codec": media.video.codec,
        "audio_codec": media.audio[0].codec if media.audio else None,
    }
    return base.model_copy(update=facts)


def stream_view(job: str, shown: Presentation, each: Shown, playlist: JobFile) -> RenditionView:
    size, ticks = sum(s.size for s in each.segments), sum(s.duration for s in each.segments)
    heard = shown.heard(each.audio)
    return RenditionView(
        name=each.name,
        artifact=playlist.artifact,
        url=f"/v1/jobs/{job}/files/{playlist.path}",
        size=size,
        width=each.track.width,
        height=each.track.height,
        bitrate=size * 8 * each.track.timescale // max(1, ticks),
        duration_seconds=ticks / each.track.timescale,
        video_codec=each.track.codec,
        audio_codec=heard[0].track.codec if heard else None,
    )


def _attempt(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        task=attempt.ref.task,
        number=attempt.ref.number,
        node=attempt.node,
        state=attempt.state,
        price=attempt.price,
        earned=attempt.earned,
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
