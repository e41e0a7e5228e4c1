"""What the inside asks about a stranger's bytes. The answers come from confined child processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a trial load and run of a model showed."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cost_us: int
    """Microseconds of one run with every open dimension at 1, on one core."""
    memory: int
    """MiB that the loaded model takes."""


class Inspector(Protocol):
    async def media(self, path: Path, *, thorough: bool = False) -> Source:
        """What is in the file; `thorough`: it must be decodable to its end, too.

        Raises UnreadableMedia; Unavailable if the probe itself cannot run.
        """
        ...

    async def complexity(self, path: Path, media: MediaInfo) -> int | None:
        """Millionths of a bit that a pixel takes at constant quality; None if that cannot be told."""
        ...

    async def model(self, path: Path) -> ModelFacts:
        """Raises InvalidModel; Unavailable if the check itself cannot run."""
        ...
