"""What the inside asks about a stranger's bytes. The answers come from confined child processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem.inspection.compared import Comparison, Likeness
from tandem.inspection.trial import Trial
from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a trial load and run of a model showed."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    cost_us: int
    """Microseconds of one run on one core, with inputs of the shapes in `measured`."""
    measured: tuple[tuple[int, ...], ...]
    """Of each input; none: every open dimension at 1."""
    memory: int
    """MiB that the loaded model takes."""
    unbatchable: str | None
    """Why requests cannot be run as one; None: they can."""
    unrepeatable: str | None
    """Why two runs of the same inputs cannot be compared; None: they can."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is in a file that a node has made, and how like it is to what it was compared with."""

    source: Source
    likeness: Likeness | None = None


class Inspector(Protocol):
    async def media(self, path: Path) -> Source:
        """What is in the file. Raises UnreadableMedia; Unavailable if the probe itself cannot run."""
        ...

    async def results(self, paths: Sequence[Path], compared: Comparison | None) -> Sequence[Inspected | str]:
        """What is in each of the files that a node has made; or why that cannot be told, or it cannot be decoded.

        Raises as `media`.
        """
        ...

    async def complexity(self, path: Path, media: MediaInfo) -> int | None:
        """Millionths of a bit that a pixel takes at constant quality; None if that cannot be told."""
        ...

    async def model(self, path: Path, trial: Trial) -> ModelFacts:
        """Of an ONNX file in a folder with its external data and nothing else.

        Raises InvalidModel; Unavailable if the check itself cannot run.
        """
        ...
