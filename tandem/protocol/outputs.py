"""What a node answers to a task: files that it uploaded, or tensors that come with the message."""

from typing import Annotated, Literal

from pydantic import Field

from tandem.protocol.ids import ArtifactId, Frozen, Name
from tandem.protocol.ladder import MAX_AUDIO_RENDITIONS, MAX_RENDITIONS
from tandem.protocol.media import MAX_TRACKS
from tandem.protocol.tensors import MAX_TENSORS, TensorMeta

MAX_FILES = MAX_RENDITIONS + MAX_AUDIO_RENDITIONS + MAX_TRACKS + 3
"""Of one task's output."""


class FileResult(Frozen):
    """A finished part of the work, uploaded as an artifact."""

    name: Name
    artifact: ArtifactId
    size: int = Field(ge=1)
    """Bytes."""


class TranscodeOutput(Frozen):
    kind: Literal["transcode"] = "transcode"
    files: tuple[FileResult, ...] = Field(min_length=1, max_length=MAX_FILES)


class InferenceOutput(Frozen):
    kind: Literal["inference"] = "inference"
    outputs: tuple[TensorMeta, ...] = Field(max_length=MAX_TENSORS)
    provider: str = Field(max_length=64)
    """The ONNX Runtime provider that ran it; a fall-back is never silent."""


MAX_FAILED_ROWS = 4096
"""Of a shard: a model that fails on more fails as a whole."""


class BatchOutput(Frozen):
    kind: Literal["batch_inference"] = "batch_inference"
    file: FileResult
    """The answers, a row each, in the order of the work."""
    provider: str = Field(max_length=64)
    """As above; if several ran it, all of them."""
    failed: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(), max_length=MAX_FAILED_ROWS)
    """Rows that the model failed on, counted from 0 in the order of the work."""

    @property
    def files(self) -> tuple[FileResult, ...]:
        return (self.file,)


Output = Annotated[TranscodeOutput | InferenceOutput | BatchOutput, Field(discriminator="kind")]
