"""Jobs, tasks and attempts: what is asked, the states each passes through, and the tables of allowed steps.

A job (what a customer asked) has tasks; a task has numbered attempts, each one execution on one node under a lease.
The three have states of their own.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from tandem.protocol.errors import InvalidTransition
from tandem.protocol.ids import ArtifactId, Frozen, Label, Name
from tandem.protocol.ladder import (
    MAX_AUDIO_RENDITIONS,
    MAX_RENDITIONS,
    AudioRendition,
    ClipRequest,
    Hdr,
    OutputSettings,
    Picture,
    PosterRequest,
    Rendition,
    RenditionRequest,
    SpriteRequest,
    Stills,
    SubtitleRendition,
    ThumbnailsRequest,
    Track,
    WatermarkRequest,
    Window,
)
from tandem.protocol.media import MAX_TRACKS, Instant, MediaInfo, VideoCodec
from tandem.protocol.models import MAX_MODEL_FILES, ModelFile, model_digest
from tandem.protocol.tensors import MAX_TENSORS, TensorJson, TensorMeta, TensorSpec
from tandem.protocol.units import Wei, ceil_div
from tandem.protocol.urls import WebUrl
from tandem.protocol.webhooks import WebhookTarget


class JobState(StrEnum):
    PREPARING = "preparing"
    """Its input is being fetched and looked into; its tasks and its price are not known yet."""
    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    """Results of all that is open are being checked, or put together to what players open."""
    EXPORTING = "exporting"
    """All is done, and its results are being written to URLs of the submitter."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    WAITING = "waiting"
    """For a node; perhaps not before a time."""
    ACTIVE = "active"
    """An attempt at it holds a lease or is being verified; two if the first lags."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """With its job; or replaced by others when the job was tried again."""


class AttemptState(StrEnum):
    RUNNING = "running"
    VERIFYING = "verifying"
    ACCEPTED = "accepted"
    """Its result is the task's, and is paid."""
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"
    RETURNED = "returned"
    CANCELLED = "cancelled"


JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.PREPARING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.VERIFYING, JobState.FAILED, JobState.CANCELLED}),
    JobState.VERIFYING: frozenset(
        {
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.EXPORTING,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.EXPORTING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.VERIFYING}),
    JobState.CANCELLED: frozenset(),
}
TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.WAITING: frozenset({TaskState.ACTIVE, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.ACTIVE: frozenset({TaskState.WAITING, TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.DONE: frozenset(),
    TaskState.FAILED: frozenset({TaskState.CANCELLED}),
    TaskState.CANCELLED: frozenset(),
}
ATTEMPT_TRANSITIONS: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.RUNNING: frozenset(
        {
            AttemptState.VERIFYING,
            AttemptState.FAILED,
            AttemptState.EXPIRED,
            AttemptState.RETURNED,
            AttemptState.CANCELLED,
        }
    ),
    AttemptState.VERIFYING: frozenset({AttemptState.ACCEPTED, AttemptState.REJECTED, AttemptState.CANCELLED}),
    AttemptState.ACCEPTED: frozenset(),
    AttemptState.REJECTED: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.EXPIRED: frozenset(),
    AttemptState.RETURNED: frozenset(),
    AttemptState.CANCELLED: frozenset(),
}

ByteRange = tuple[Annotated[int, Field(ge=0, lt=2**63)], Annotated[int, Field(ge=1, lt=2**63)]]

_MICRO = 10**6

State = TypeVar("State", JobState, TaskState, AttemptState)


_RETRIED = frozenset({JobState.FAILED, TaskState.FAILED})


def is_final(table: Mapping[State, frozenset[State]], state: State) -> bool:
    """Whether nothing follows of itself; what failed a submitter may still have tried again."""
    return not table[state] or state in _RETRIED


def step(table: Mapping[State, frozenset[State]], current: State, target: State) -> State:
    """`target`, if the table allows it; staying where one is is always allowed. Raises InvalidTransition."""
    if target is not current and target not in table[current]:
        allowed = ", ".join(sorted(table[current])) or "nothing, it is final"
        raise InvalidTransition(f"from {current} expected one of: {allowed}; got {target}")
    return target


# What a submitter sends.


class ArtifactInput(Frozen):
    artifact: ArtifactId


class UrlInput(Frozen):
    """Fetched by the orchestrator while the job is `preparing`."""

    url: WebUrl


FILENAME = "${filename}"
_FormName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_FormValue = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00-\x1f\x7f]*$")]


def _input_kind(value: object) -> str:
    has_url = "url" in value if isinstance(value, Mapping) else isinstance(value, UrlInput)
    return "from_url" if has_url else "from_artifact"


JobInput = Annotated[
    Annotated[ArtifactInput, Tag("from_artifact")] | Annotated[UrlInput, Tag("from_url")], Discriminator(_input_kind)
]


class NewJob(Frozen):
    """What every request may say."""

    max_price: Wei | None = None
    """A job that costs more is refused, or fails if its price is known only once it is prepared."""
    webhook: WebhookTarget | None = None
    """Where each new state of the job is told; None: where the API key's settings say, if they do."""


class BucketForm(Frozen):
    """A presigned POST to a bucket, as the SDKs of S3 make it. All files of the job's folder are written by it.

    `fields` has the `key` of all: a prefix and `${filename}`, for which each file's path stands. A `Content-Type` among
    them is replaced by that of the file.
    """

    url: WebUrl
    fields: Annotated[Mapping[_FormName, _FormValue], Field(max_length=32)]

    @model_validator(mode="after")
    def _is_for_many(self) -> Self:
        if not self.fields.get("key", "").endswith(FILENAME):
            raise ValueError(f"expected a form whose field `key` ends in {FILENAME}, for the files are many")
        return self


def _upload_kind(value: object) -> str:
    form = "fields" in value if isinstance(value, Mapping) else isinstance(value, BucketForm)
    return "to_bucket" if form else "to_urls"


_Urls = Annotated[Mapping[Name, WebUrl], Field(max_length=MAX_RENDITIONS)]
Uploads = Annotated[
    Annotated[BucketForm, Tag("to_bucket")] | Annotated[_Urls, Tag("to_urls")], Discriminator(_upload_kind)
]


class OutputRequest(OutputSettings):
    upload: Uploads = Field(default_factory=dict)
    """Presigned URLs by rendition, each written by PUT, or a form for all files; then the job has succeeded."""


class TranscodeRequest(NewJob):
    kind: Literal["transcode"]
    input: JobInput
    ladder: Annotated[tuple[RenditionRequest, ...], Field(min_length=1, max_length=MAX_RENDITIONS)] | None = None
    """None: an ABR ladder that never upscales."""
    output: OutputRequest = OutputRequest()
    gop_seconds: Annotated[float, Field(ge=0.5, le=10, allow_inf_nan=False)] = 2.0
    """Keyframes are this far apart, at the same times in all renditions."""
    audio_tracks: Annotated[tuple[Track, ...], Field(min_length=1, max_length=8)] | None = None
    """None: the one that the source marks as its default, else the first."""
    subtitles: bool = True
    """Whether captions and text tracks are carried where the output can."""
    hdr: Hdr = Hdr.TONE_MAP
    clip: ClipRequest | None = None
    watermark: WatermarkRequest | None = None
    thumbnails: ThumbnailsRequest | None = None
    sprite: SpriteRequest | None = None
    poster: PosterRequest | None = None


class InferenceRequest(NewJob):
    kind: Literal["inference"]
    model: Name
    version: Name | None = None
    """None: the one that answers for the name, which is the latest unless its owner says otherwise."""
    inputs: Annotated[tuple[TensorJson, ...], Field(min_length=1, max_length=MAX_TENSORS)]


class BatchFormat(StrEnum):
    """Of a file with one input of a model a row."""

    JSONL = "jsonl"
    """JSON Lines: an inference request of the Open Inference Protocol a line."""
    NPZ = "npz"
    """NumPy arrays, one an input; the first axis counts rows."""
    ARROW = "arrow"
    """Arrow's IPC file format: a column an input."""


class BatchRequest(NewJob):
    """A run of a model for each row of a file; the answers are a file of the same format, in the same order."""

    kind: Literal["batch_inference"]
    model: Name
    version: Name | None = None
    """None: the one that answers for the name when the job is submitted."""
    input: JobInput
    format: BatchFormat | None = None
    """None: told from the content."""
    outputs: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_TENSORS)] | None = None
    """Names of those that are wanted; None: all."""


AnyRequest = TranscodeRequest | InferenceRequest | BatchRequest


def uploads_of(request: AnyRequest) -> Mapping[str, str] | BucketForm:
    """Where results are to be written to; false if nowhere."""
    return request.output.upload if isinstance(request, TranscodeRequest) else {}


JobRequest = Annotated[AnyRequest, Field(discriminator="kind")]


# What is stored and scheduled, once the request has been checked and every default decided.


class TranscodeWork(Frozen):
    """One kind of task with optional parts: a whole file, a window of its pictures, or its sound alone.

    One decode feeds all parts. Each is a file of its own, named as the part is:

    - pictures: MPEG-TS (H.264, HEVC) or IVF (VP9, AV1) without sound. Times count ticks of 1/90000 s from the job's
      beginning, which is at `PICTURE_OFFSET_TICKS`, so that windows can be put one after the other;
    - sound: MP4 whose first sample is at the job's beginning, silence where the source has none yet; of a window, at
      the sample that `sounding` says, up to a little after its end;
    - subtitles: WebVTT from the job's beginning;
    - stills: JPEG pictures one after the other.

    With `direct`, each rendition is an MP4 with its sound instead, ready to be played.
    """

    kind: Literal["transcode"] = "transcode"
    source: ArtifactId
    source_size: int = Field(ge=1)
    """Bytes."""
    media: MediaInfo
    clip: Window | None = None
    """The part of the source that the job is about; None: all of it."""
    window: Window | None = None
    """The part of the job's pictures, or of its sound, that is this task's; None: all of them."""
    seek_us: Instant | None = None
    """Where decoding may begin: a keyframe strictly before the window; None: at the file's beginning."""
    ranges: tuple[ByteRange, ...] = Field(default=(), max_length=3)
    """Bytes of the source that are enough, as starts and ends (exclusive), ascending; none: all of it is needed."""
    picture: Picture = Picture()
    video: tuple[Rendition, ...] = Field(default=(), max_length=MAX_RENDITIONS)
    audio: tuple[AudioRendition, ...] = Field(default=(), max_length=MAX_AUDIO_RENDITIONS)
    subtitles: tuple[SubtitleRendition, ...] = Field(default=(), max_length=MAX_TRACKS)
    stills: Stills | None = None
    direct: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"expected parts with a name each of its own, got {list(self.names)}")
        if self.window is not None and (bool(self.audio) == bool(self.video) or not self.is_cuttable):
            raise ValueError("only pictures or sound that is encoded are cut into windows, apart from each other")
        edges = [edge for span in self.ranges for edge in span]
        if edges != sorted(set(edges)) or (edges and edges[-1] > self.source_size):
            raise ValueError(f"expected ranges within the source, ascending and apart, got {self.ranges}")
        if self.media.video is None and (self.video or self.stills):
            raise ValueError("expected a source with a video stream, since pictures are asked for")
        return self

    @property
    def bytes_needed(self) -> int:
        """Of the source."""
        return sum(end - start for start, end in self.ranges) or self.source_size

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files that are to come."""
        stills = self.stills.names if self.stills else ()
        sounds = () if self.direct else tuple(each.name for each in self.audio)
        return (*(each.name for each in self.video), *sounds, *(each.name for each in self.subtitles), *stills)

    @property
    def is_cuttable(self) -> bool:
        """Whether there may be windows of it. How loud sound is shows only at its end; packets are copied fast."""
        whole = any(each.bitrate is None or each.loudness is not None for each in self.audio)
        return not (whole or self.subtitles or self.stills or self.direct)

    @property
    def origin_us(self) -> int:
        """Presentation time that is the job's beginning."""
        return self.clip.start_us if self.clip else self.media.origin_us

    @property
    def duration_us(self) -> int:
        """Of what is to come, in microseconds."""
        return self.window.duration_us if self.window else self.whole_us

    @property
    def whole_us(self) -> int:
        """Of the job's pictures, in microseconds."""
        return self.clip.duration_us if self.clip else self.media.duration_us

    @property
    def begins(self) -> bool:
        """Whether nothing of the job comes before it: a player that follows a job waits for it first."""
        return self.window is None or self.window.start_us <= self.origin_us

    @property
    def ends(self) -> bool:
        """Whether nothing of the job comes after it."""
        return self.window is None or self.window.end_us >= self.origin_us + self.whole_us

    def frames_of(self, rendition: Rendition) -> int:
        """About how many frames are to come; exact where the rate is constant. Of a job's windows they add up."""
        if rendition.fps is not None:
            frames, duration_us = rendition.fps[0], rendition.fps[1] * _MICRO
        elif self.media.video is not None and self.media.duration_us:
            frames, duration_us = self.media.video.frames, self.media.duration_us
        else:
            return 0
        start = self.window.start_us - self.origin_us if self.window else 0
        return ceil_div((start + self.duration_us) * frames, duration_us) - ceil_div(start * frames, duration_us)

    def pixels(self) -> dict[VideoCodec, int]:
        """Pixels to encode, by codec: the unit that pictures are priced in."""
        totals: dict[VideoCodec, int] = {}
        for each in self.video:
            totals[each.codec] = totals.get(each.codec, 0) + each.width * each.height * self.frames_of(each)
        return totals


class ModelWork(Frozen):
    """What a run of a model needs to know of it."""

    model: ArtifactId
    """The ONNX file."""
    model_size: int = Field(ge=1)
    """Bytes of the ONNX file."""
    files: tuple[ModelFile, ...] = Field(default=(), max_length=MAX_MODEL_FILES)
    """The model's external data."""

    @cached_property
    def digest(self) -> str:
        """Names the model with all of its files."""
        return model_digest(self.model, self.files)


class InferenceWork(ModelWork):
    kind: Literal["inference"] = "inference"
    inputs: tuple[TensorMeta, ...] = Field(max_length=MAX_TENSORS)
    """The data travel beside the message."""
    outputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    cost_us: int = Field(ge=1)
    """Microseconds of model cost of this run."""


class BatchWork(ModelWork):
    """A shard of a batch: a run of the model for each of some rows. What is to come is one file of rows, `ROWS`."""

    kind: Literal["batch_inference"] = "batch_inference"
    source: ArtifactId
    """All rows of the batch, as `tandem.protocol.rows` has them."""
    source_size: int = Field(ge=1)
    """Bytes."""
    span: ByteRange
    """The bytes of the source that are this shard's: start and end (exclusive)."""
    rows: int = Field(ge=1, lt=2**31)
    """To be run."""
    faulty: int = Field(default=0, ge=0, lt=2**31)
    """Rows of the span that say that the model does not take them: they are passed over."""
    format: BatchFormat
    """Of what the submitter gets: only JSON Lines can say of a row that the model failed on it."""
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    """Those that are wanted, in this order."""
    max_batch: int = Field(default=1, ge=1, lt=2**16)
    """So many rows may be run at once, if they are alike."""
    cost_us: int = Field(ge=1)
    """Microseconds of model cost of all rows."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if not self.span[0] < self.span[1] <= self.source_size:
            raise ValueError(f"expected a span within the {self.source_size} bytes of the source, got {self.span}")
        return self

    @property
    def lenient(self) -> bool:
        """Whether the model may fail on a row without failing the shard."""
        return self.format is BatchFormat.JSONL

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files that are to come."""
        return (ROWS,)


ROWS = "rows"

AnyWork = TranscodeWork | InferenceWork | BatchWork
Work = Annotated[AnyWork, Field(discriminator="kind")]


def inputs_of(work: AnyWork) -> tuple[str, ...]:
    """All artifacts that the work is about, and needs."""
    if isinstance(work, TranscodeWork):
        watermark = work.picture.watermark
        return (work.source,) if watermark is None else (work.source, watermark.artifact)
    model = (work.model, *(file.artifact for file in work.files))
    return (work.source, *model) if isinstance(work, BatchWork) else model


def source_of(work: AnyWork) -> str:
    """The artifact that the node fetches in any case."""
    return work.model if isinstance(work, InferenceWork) else work.source
