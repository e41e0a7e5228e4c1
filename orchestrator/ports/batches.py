"""What the inside asks of whoever reads the inputs of batches and writes their results: a confined child process."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from orchestrator.core.sharding import BatchFacts
from tandem.protocol.ids import Frozen, Name
from tandem.protocol.jobs import BatchFormat
from tandem.protocol.tensors import TensorSpec


class Reading(Frozen):
    """A submitter's file to be read, and written to `target` as a file of rows; None: looked into alone."""

    kind: Literal["reading"] = "reading"
    path: Path
    inputs: tuple[TensorSpec, ...]
    """What the model takes."""
    measured: tuple[TensorSpec, ...] = ()
    """The inputs that the model's cost was measured with; none: those, with every open dimension at 1."""
    outputs: tuple[TensorSpec, ...] = ()
    """What is wanted of what it gives: the format must be able to hold it."""
    format: BatchFormat | None = None
    """None: told from the content."""
    target: Path | None = None


class Writing(Frozen):
    """The answers of shards, in their order, to be written to `target` as one file of the submitter's format."""

    kind: Literal["writing"] = "writing"
    model: Name
    version: Name
    source: Path
    """The rows that were asked for: their ids, and the faults of those that were not run."""
    shards: tuple[Path, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...]
    format: BatchFormat
    target: Path


class Written(Frozen):
    rows: int = Field(ge=1)
    failed: int = Field(ge=0)
    """Of them."""


class Batches(Protocol):
    """All raise Unavailable if the work itself cannot run."""

    def room(self) -> AbstractAsyncContextManager[Path]:
        """A folder to work in, which is gone afterwards."""
        ...

    async def read(self, order: Reading) -> BatchFacts:
        """Raises UnreadableBatch, TooLarge."""
        ...

    async def write(self, order: Writing) -> Written:
        """Raises ResultRejected for answers that do not fit together."""
        ...
