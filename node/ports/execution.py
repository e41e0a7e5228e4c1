"""What the daemon asks of its executors. They raise a TandemError for a failure that belongs to the job or the moment
(ExecutionFailed, ChildCrashed, …); anything else is a bug. Cancelling the call kills the child process and its group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem.protocol.capacity import Capability, Capacity
from tandem.protocol.jobs import InferenceWork, TranscodeWork
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


class Inference(Protocol):
    async def infer(
        self, work: InferenceWork, model: Path, inputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], str]:
        """Runs the model once: the output tensors, and the ONNX Runtime provider that ran it."""
        ...


@dataclass(frozen=True, slots=True)
class Detected:
    """What this machine can do, measured, and what is missing, in sentences with a remedy each."""

    capability: Capability
    capacity: Capacity
    missing: tuple[str, ...] = ()
