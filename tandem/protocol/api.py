"""What the HTTP API answers, as both sides read it. Requests are in `jobs`; tensors in `tensors`.

Unlike what is sent, an answer may hold more than a client knows: unknown fields are dropped, so that an orchestrator
may be newer than its clients. Amounts are wei, written as decimal strings; times are RFC 3339 in UTC.
"""

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.errors import ERRORS_BY_CODE, TandemError, error_from_wire
from tandem.protocol.ids import ArtifactId, Frozen, Name
from tandem.protocol.jobs import AttemptState, BatchFormat, BatchRequest, JobState, TranscodeRequest
from tandem.protocol.ladder import AudioRendition, Rendition
from tandem.protocol.models import MAX_MODEL_FILES, FileName, ModelFile, ModelSettings
from tandem.protocol.pricing import Prices
from tandem.protocol.rows import Fault
from tandem.protocol.tensors import Datatype, FixedShape, TensorJson, TensorSpec
from tandem.protocol.units import Wei
from tandem.protocol.urls import WebUrl
from tandem.protocol.webhooks import DeliveryStatus, WebhookTarget

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_PREFIX = "urn:tandem:error:"


class View(BaseModel):
    """Base of every answer."""

    # JSON has no NaN and no infinities: tensors spell them as the strings "NaN", "Infinity" and "-Infinity".
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class Problem(View):
    """An error, as RFC 9457 has it, with a code of the error tree."""

    type: str
    title: str
    status: int
    detail: str
    code: str

    @classmethod
    def of(cls, code: str, detail: str, status: int | None = None) -> "Problem":
        """The problem for a code; its status is the error type's unless another is given."""
        status = status or ERRORS_BY_CODE.get(code, TandemError).status
        title = code.replace("_", " ").capitalize()
        return cls(type=PROBLEM_PREFIX + code, title=title, status=status, detail=detail, code=code)

    def error(self) -> TandemError:
        """The error that the problem stands for; of an unknown code, the status says whether to try again."""
        known = ERRORS_BY_CODE.get(self.code)
        retryable = known.retryable if known else self.status >= 500  # noqa: PLR2004 - the server's fault
        return error_from_wire(self.code, self.detail, retryable=retryable)


class InferenceError(View):
    """An error as the Open Inference Protocol has it, with a code of the error tree beside it."""

    error: str
    code: str


class ArtifactView(View):
    id: ArtifactId
    size: int
    """Bytes."""
    media_type: str


class NewModel(Frozen):
    """What registers a model: an uploaded ONNX artifact under a name and version."""

    name: Name
    version: Name = "1"
    artifact: ArtifactId
    files: Annotated[Mapping[FileName, ArtifactId], Field(max_length=MAX_MODEL_FILES)] = {}
    """Of external data, by the names that the model calls them, each an artifact as well."""
    settings: ModelSettings = ModelSettings()
    public: bool = False
    """Whether every key may use it, or the one that registers it alone."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        folders = {str(folder) for name in self.files for folder in PurePosixPath(name).parents}
        both = sorted(folders & self.files.keys())
        if both:
            raise ValueError(f"files: expected names of files, got {both[0]!r}, which is a folder of others too")
        return self


class ModelChange(Frozen):
    """What is to change of a registered model; what is not named stays, of the settings too."""

    settings: ModelSettings | None = None
    public: bool | None = None
    default: bool | None = None
    """True: it answers requests that name no version; false: the latest does."""


class ModelView(View):
    """A model that this key may use."""

    name: str
    version: str
    digest: str
    """Names the model with all of its files."""
    artifact: ArtifactId
    """The ONNX file."""
    size: int
    """Bytes of the ONNX file."""
    files: tuple[ModelFile, ...] = ()
    """Of external data."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    """Version of ONNX's operators that it is written for; 0: not known."""
    cost_us: int
    """Microseconds of one run on one core of the orchestrator, with inputs of the shapes in `measured`."""
    measured: tuple[tuple[int, ...], ...] = ()
    """Of each input; none: every open dimension at 1."""
    memory: int
    """MiB that the loaded model takes."""
    batchable: bool
    """Whether rows of several requests may be run as one; if not, `unbatchable` says why."""
    unbatchable: str | None = None
    unrepeatable: str | None = None
    """Why answers are not checked by a second run; None: a share of them is."""
    settings: ModelSettings
    public: bool
    own: bool
    """Whether it is this key's, which may change and delete it."""
    answers: bool
    """Whether requests that name no version are answered by this one."""
    created_at: datetime


class ModelList(View):
    models: tuple[ModelView, ...]


class TensorEcho(View):
    """An input tensor of a stored request: its data are not kept in it."""

    name: str
    datatype: Datatype
    shape: FixedShape


class InferenceEcho(View):
    kind: Literal["inference"] = "inference"
    max_price: Wei | None = None
    webhook: WebhookTarget | None = None
    model: str
    version: str | None
    inputs: tuple[TensorEcho, ...]


RequestEcho = Annotated[TranscodeRequest | InferenceEcho | BatchRequest, Field(discriminator="kind")]


class QuoteView(View):
    """What a job would cost, in wei, with everything decided that the request left open."""

    kind: Literal["transcode", "inference", "batch_inference"]
    price: Wei
    ladder: tuple[Rendition, ...] | None = None
    """Of a transcode."""
    audio: tuple[AudioRendition, ...] | None = None
    """Of a transcode; those with several tracks or settings have several."""
    tasks: int = 1
    """Into so many it would be split over the nodes that are connected now."""
    whole_because: str | None = None
    """Why a transcode would not be split."""
    cost_us: int | None = None
    """Of an inference, or of all rows of a batch: microseconds of model cost."""
    rows: int | None = None
    """Of a batch: those that the model takes."""
    faulty_rows: int | None = None
    """Of a batch: those that it does not take; they cost nothing."""


class RenditionProgressView(View):
    name: str
    percent: float


class ProgressView(View):
    percent: float
    """While the job is preparing: of the fetch. From then on: of the work."""
    remaining_seconds: float | None = None
    speed: float | None = None
    """Seconds of the source a second at present, by all nodes together: 2 is twice real time. Of a transcode."""
    renditions: tuple[RenditionProgressView, ...] = ()
    """Of a transcode."""
    fetched_bytes: int | None = None
    """Of an input that is being fetched."""
    rows: int | None = None
    """Of a batch: those that are done by now, of `rows_total`."""
    rows_total: int | None = None


class PriceView(View):
    quoted: Wei | None
    """None as long as the job is not prepared."""
    charged: Wei
    """The sum of what accepted attempts cost; other attempts cost nothing."""


class RenditionView(View):
    """A finished rendition. What follows `size` was measured by the orchestrator, not said by the node."""

    name: str
    artifact: ArtifactId
    """Of the file, or of the playlist."""
    url: str
    """Its path at this orchestrator."""
    size: int
    """Bytes; with its segments, less those of sound."""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    bitrate: int | None = None
    """Bits a second of the whole file."""
    duration_seconds: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None


class FileView(View):
    """A file of a job's folder."""

    path: str
    artifact: ArtifactId
    media_type: str
    size: int
    """Bytes."""


class FileList(View):
    files: tuple[FileView, ...]


class TranscodeResult(View):
    renditions: tuple[RenditionView, ...]


class InferenceResult(View):
    outputs: tuple[TensorJson, ...]
    provider: str
    """The ONNX Runtime provider that ran it."""


class BatchLine(View):
    """A line of a batch's results: the answer to the row at the same place, or what is wrong with the row."""

    id: str | None = None
    """As the row has it."""
    model_name: str
    model_version: str
    outputs: tuple[TensorJson, ...] | None = None
    error: Fault | None = None


class BatchResult(View):
    artifact: ArtifactId
    url: str
    """Its path at this orchestrator."""
    format: BatchFormat
    size: int
    """Bytes."""
    rows: int
    failed: int
    """Rows without an answer, each with its reason; of JSON Lines alone."""
    providers: tuple[str, ...]
    """The ONNX Runtime providers that ran it."""


class ExportView(View):
    """How far the results are on their way to URLs of the submitter."""

    written: tuple[str, ...]
    """Names of those that are there."""
    tries: int
    """That failed."""
    error: str | None = None
    """Of the last that did."""


class AttemptView(View):
    task: str
    number: int
    node: str
    state: AttemptState
    price: Wei
    """What it earns if accepted."""
    earned: Wei = 0
    """What it earned: its price; or a part, if another attempt at the task was accepted first."""
    started_at: datetime
    finished_at: datetime | None = None
    error: Problem | None = None


class JobSummary(View):
    """A job as it stands in a list."""

    id: str
    kind: Literal["transcode", "inference", "batch_inference"]
    state: JobState
    created_at: datetime
    finished_at: datetime | None = None
    progress: ProgressView
    price: PriceView
    error: Problem | None = None


class JobView(JobSummary):
    """A job with all that is known of it."""

    request: RequestEcho
    folder: str | None = None
    """Path of a transcode's folder at this orchestrator, open without a key for a week; players add `master.m3u8`,
    `manifest.mpd` or the name of a file to it."""
    result: TranscodeResult | InferenceResult | BatchResult | None = None
    attempts: tuple[AttemptView, ...] = ()
    export: ExportView | None = None
    """Of a job whose request has URLs to write results to, once there are results."""


class WebhookSettings(Frozen):
    """Where the jobs of an API key are told of, unless a request says otherwise."""

    url: WebUrl | None


class WebhookView(View):
    """The webhook of an API key. Its secret is shown when it is made, and never again."""

    url: str | None
    secret: str | None = None
    secret_made_at: datetime


class DeliveryView(View):
    """One event of one job, on its way to its webhook."""

    id: str
    """The event's: `webhook-id`, however often it is sent."""
    job: str
    type: str
    """`job.` and the state."""
    url: str
    status: DeliveryStatus
    happened_at: datetime
    tries: int
    next_try_at: datetime | None = None
    delivered_at: datetime | None = None
    error: str | None = None
    """Of the last try that failed."""


class DeliveryList(View):
    deliveries: tuple[DeliveryView, ...]
    next: str | None = None
    """To be given as `after` for the next page; None at the end."""


class UsageView(View):
    """What an API key used of one model on line, on one day."""

    day: date
    """In UTC."""
    model: str
    version: str
    requests: int
    price: Wei
    """Wei, of all of them."""


class UsageList(View):
    usage: tuple[UsageView, ...]
    next: str | None = None
    """To be given as `after` for the next page; None at the end."""


class WebhookEvent(View):
    """The body of a webhook."""

    id: str
    type: str
    """`job.` and the state that the job has come to."""
    timestamp: datetime
    """When it came to it."""
    data: JobView
    """The job. Where it has moved on since, only what does not contradict that state; where the whole would pass
    64 KiB, without attempts and result."""


class ObstacleView(View):
    """One reason why a task is not on a node now."""

    obstacle: str
    """`draining`, `no_terms`, `overdrawn`, `unfunded`, `cannot`, `price`, `exposure`, `capacity` or `failed_before`."""
    detail: str


class NodeObstacles(View):
    node: str
    obstacles: tuple[ObstacleView, ...]
    """None at all: it is about to get the task."""


class WaitingTask(View):
    task: str
    not_before: datetime | None
    """A task that failed is left alone until then; None: it never failed."""
    nodes: tuple[NodeObstacles, ...]
    """Every connected node; empty: none is connected, and the task waits for one."""


class Explanation(View):
    """Why a job is waiting: each of its waiting tasks beside each connected node."""

    state: JobState
    waiting: tuple[WaitingTask, ...]


class JobList(View):
    jobs: tuple[JobSummary, ...]
    next: str | None = None
    """To be given as `after` for the next page; None at the end."""


class NodeSummary(View):
    """A connected node: what it offers and what it has earned, in wei of expected value, since the beginning."""

    address: str
    connected_at: datetime
    draining: bool
    capability: Capability
    capacity: Capacity
    prices: Prices
    running: tuple[str, ...]
    """Attempts, as `TASK#NUMBER`."""
    earned: Wei
    """By accepted attempts."""
    issued: Wei
    """In tickets, those that it refused included."""
    withheld: ObstacleView | None = None
    """Why it gets no work, whatever it offers."""


class NodeList(View):
    nodes: tuple[NodeSummary, ...]


class StateEvent(View):
    """Data of the events `state` and `end` of a job's stream; `end` is the last."""

    state: JobState
