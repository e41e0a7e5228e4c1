"""Jobs, tasks and attempts: what is asked, the states each passes through, and the tables of allowed steps.

A job (what a customer asked) has tasks; a task has numbered attempts, each one execution on one node under a lease.
The three have states of their own.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from tandem.protocol.errors import InvalidTransition
from tandem.protocol.ids import ArtifactId, Frozen, Name
from tandem.protocol.media import MAX_RENDITIONS, MediaInfo, OutputSettings, Rendition, RenditionRequest
from tandem.protocol.tensors import MAX_TENSORS, TensorJson, TensorMeta, TensorSpec
from tandem.protocol.units import Wei
from tandem.protocol.urls import WebUrl
from tandem.protocol.webhooks import WebhookTarget


class JobState(StrEnum):
    PREPARING = "preparing"
    """Its input is being fetched and looked into; its tasks and its price are not known yet."""
    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    EXPORTING = "exporting"
    """All is done, and its results are being written to URLs of the submitter."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    WAITING = "waiting"
    """For a node; perhaps not before a time."""
    ACTIVE = "active"
    """Its newest attempt holds a lease, or is being verified."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


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
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.WAITING: frozenset({TaskState.ACTIVE, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.ACTIVE: frozenset({TaskState.WAITING, TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.DONE: frozenset(),
    TaskState.FAILED: frozenset(),
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

State = TypeVar("State", JobState, TaskState, AttemptState)


def is_final(table: Mapping[State, frozenset[State]], state: State) -> bool:
    return not table[state]


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


class OutputRequest(OutputSettings):
    upload: Annotated[Mapping[Name, WebUrl], Field(max_length=MAX_RENDITIONS)] = {}
    """Presigned URLs by rendition: each is written there by PUT, and then the job has succeeded."""


class TranscodeRequest(NewJob):
    kind: Literal["transcode"]
    input: JobInput
    ladder: Annotated[tuple[RenditionRequest, ...], Field(min_length=1, max_length=MAX_RENDITIONS)] | None = None
    """None: an ABR ladder that never upscales."""
    output: OutputRequest = OutputRequest()


class InferenceRequest(NewJob):
    kind: Literal["inference"]
    model: Name
    version: Name = "1"
    inputs: Annotated[tuple[TensorJson, ...], Field(min_length=1, max_length=MAX_TENSORS)]


def uploads_of(request: TranscodeRequest | InferenceRequest) -> Mapping[str, str]:
    """URLs that results are to be written to, by name."""
    return request.output.upload if isinstance(request, TranscodeRequest) else {}


JobRequest = Annotated[TranscodeRequest | InferenceRequest, Field(discriminator="kind")]


# What is stored and scheduled, once the request has been checked and every default decided.


class TranscodeWork(Frozen):
    kind: Literal["transcode"] = "transcode"
    source: ArtifactId
    source_size: int = Field(ge=1)
    """Bytes."""
    media: MediaInfo
    ladder: tuple[Rendition, ...] = Field(min_length=1, max_length=MAX_RENDITIONS)


class InferenceWork(Frozen):
    kind: Literal["inference"] = "inference"
    model: ArtifactId
    model_size: int = Field(ge=1)
    """Bytes."""
    inputs: tuple[TensorMeta, ...] = Field(max_length=MAX_TENSORS)
    """The data travel beside the message."""
    outputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    cost_us: int = Field(ge=1)
    """Microseconds of model cost of this run."""


Work = Annotated[TranscodeWork | InferenceWork, Field(discriminator="kind")]


# What a node answers.


class RenditionResult(Frozen):
    """A finished rendition, uploaded as an artifact."""

    name: Name
    artifact: ArtifactId
    size: int = Field(ge=1)
    """Bytes."""


class TranscodeOutput(Frozen):
    kind: Literal["transcode"] = "transcode"
    renditions: tuple[RenditionResult, ...] = Field(min_length=1, max_length=MAX_RENDITIONS)


class InferenceOutput(Frozen):
    kind: Literal["inference"] = "inference"
    outputs: tuple[TensorMeta, ...] = Field(max_length=MAX_TENSORS)
    provider: str = Field(max_length=64)
    """The ONNX Runtime provider that ran it; a fall-back is never silent."""


Output = Annotated[TranscodeOutput | InferenceOutput, Field(discriminator="kind")]


class ModelInfo(Frozen):
    """A registered model: an ONNX artifact under a name and version."""

    name: Name
    version: Name
    artifact: ArtifactId
    size: int = Field(ge=1)
    inputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(max_length=MAX_TENSORS)
    cost_us: int = Field(ge=1)
    """Microseconds of one run with every open dimension at 1, on one core of the orchestrator."""
    memory: int = Field(ge=0)
    """MiB that the loaded model takes, measured."""
