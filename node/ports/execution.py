"""What the daemon asks of its executors. They raise a TandemError for a failure that belongs to the job or the moment
(ExecutionFailed, ChildCrashed, …); anything else is a bug. Cancelling the call kills the child process and its group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.errors import TandemError
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Tensor

Report = Callable[[int, float | None], None]
"""Takes progress in thousandths, and the seconds left or None."""


class Transcoder(Protocol):
    async def transcode(
        self, work: TranscodeWork, source: Path, logo: Path | None, folder: Path, report: Report
    ) -> dict[str, Path]:
        """Makes every part of the work into `folder`, one decode for all; the files by name.

        `logo` is the watermark's image, if the work has one.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model as it lies in the cache. Each of its files is an artifact, named by the hexadecimal digits of its own."""

    digest: str
    """Of all files together, as `model_digest` has it."""
    model: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    """External data, by the names that the model has for them."""


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """What loading found. Memory is in bytes, measured."""

    provider: str
    """The ONNX Runtime provider that the model runs on."""
    memory: int
    vram: int = 0
    fallback: str = ""
    """Why it is not the provider that was preferred; empty if it is."""
    batchable: bool = False
    """Whether the first dimension of all inputs and outputs is open."""


@dataclass(frozen=True, slots=True)
class WarmModel:
    """A model that is loaded now."""

    digest: str
    loaded: ModelLoaded
    pinned: bool


class ModelRun(NamedTuple):
    """What one run of a model gave."""

    outputs: tuple[Tensor, ...]
    provider: str
    run_us: int
    """Microseconds of the run itself, without moving the tensors."""
    warm: bool
    """Whether the model was loaded already."""
    queue_us: int = 0
    """Microseconds that it waited for a worker, and for others of its batch."""
    batch: int = 1
    """Requests that were run together."""


Done = Callable[[ModelRun | TandemError], None]


class Running(Protocol):
    """A request that was handed in."""

    def cancel(self) -> object:
        """Ends it, and its callback is not called any more. Harmless once it is over."""
        ...


class Inference(Protocol):
    """Models are named by their digests, as in ModelInfo."""

    async def load(self, files: ModelFiles, settings: ModelSettings, *, pinned: bool = False) -> ModelLoaded:
        """Makes the model ready, or ready otherwise if it was loaded with other settings.

        A pinned one is not evicted to make room for another.

        Raises InvalidModel, NoCapacity for want of memory, Unavailable, ChildCrashed. The files need not be kept
        afterwards; but a worker that crashes loads its models anew, and loses those whose files are gone.
        """
        ...

    async def unload(self, digest: str) -> None:
        """Drops the model, once what runs has ended. One that is not loaded is no error."""
        ...

    def submit(self, digest: str, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> Running:
        """Runs a loaded model for the named outputs, or for all if none is named; `done` is called once, never
        before this returns.

        With Unavailable for a model that is not loaded, NoCapacity if too much waits already, InvalidTensor,
        InvalidModel for outputs it does not have, ExecutionFailed, TooLarge, AttemptTimeout, ChildCrashed.
        """
        ...

    async def run(self, files: ModelFiles, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> ModelRun:
        """Loads the model if need be, and runs it once. Raises what `load` raises and `submit` answers.

        Cancelling it ends the run.
        """
        ...

    def warm(self) -> tuple[WarmModel, ...]:
        """The models that are loaded, least recently used first."""
        ...

    def listen(self, changed: Callable[[], None]) -> None:
        """`changed` is called after every change of what `warm` says."""
        ...


@dataclass(frozen=True, slots=True)
class Detected:
    """What this machine can do, measured, and what is missing, in sentences with a remedy each."""

    capability: Capability
    capacity: Capacity
    missing: tuple[str, ...] = ()
