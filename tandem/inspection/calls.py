"""The inspections as async calls, each a confined child process of its own. Paths are absolute."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Generic, TypeVar

from pydantic import Field, ValidationError

from tandem.clock import Clock
from tandem.inspection.compared import Comparison, Likeness
from tandem.inspection.trial import Trial, sizes_beside
from tandem.process import Confinement, Limits, python_command, python_runtime, run
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import (
    AttemptTimeout,
    ChildCrashed,
    InvalidModel,
    InvalidRequest,
    TooLarge,
    Unavailable,
    UnreadableMedia,
)
from tandem.protocol.ids import Frozen
from tandem.protocol.media import Source
from tandem.protocol.tensors import MAX_TENSORS, FixedShape, TensorSpec

_MIB = 2**20
_MAX_ANSWER = 2**21
_MAX_REASON = 4096
_MEDIA_SECONDS = 60
_MEDIA_MIB = 1024
_SLOWEST_READ = 2**25
"""Bytes a second, of a disk and of a demultiplexer."""
_BYTES_A_PIXEL = 150
"""Of what a decoder and a comparison hold of a source of 10 bits: some fifty pictures."""
_MODEL_SECONDS = 60
_MODEL_BASE_MIB = 1024
_COPIES_OF_A_MODEL = 5


class ModelReport(Frozen):
    """What a trial load and run of a model showed."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    opset: int = Field(ge=0)
    cost_us: int = Field(ge=1)
    """Microseconds of one run on one core, with inputs of the shapes in `measured`."""
    measured: tuple[FixedShape, ...] = Field(max_length=MAX_TENSORS)
    """Of each input; none: every open dimension at 1."""
    memory: int = Field(ge=1)
    """MiB that the loaded model takes."""
    unbatchable: str | None = Field(max_length=1024)
    """Why rows of several requests cannot be run as one; None: they can."""
    unrepeatable: str | None = Field(max_length=1024)
    """Why two runs of the same inputs cannot be compared; None: they can."""


class ComplexityReport(Frozen):
    """What a constant-quality trial of a few short windows showed."""

    microbits_a_pixel: int = Field(ge=0, lt=2**53)


class ResultReport(Frozen):
    """What is in one file, or why that cannot be told."""

    source: Source | None = None
    likeness: Likeness | None = None
    """To what it is compared with; None: there is nothing to compare."""
    refused: str = Field(default="", max_length=_MAX_REASON)


class ResultsReport(Frozen):
    files: tuple[ResultReport, ...]


Facts = TypeVar("Facts", Source, ResultsReport, ModelReport, ComplexityReport)


@dataclass(frozen=True, slots=True)
class _Inspection(Generic[Facts]):
    module: str
    """Main of the child."""
    facts: type[Facts]
    refusal: type[InvalidRequest]
    """Raised if the file is at fault."""
    limits: Limits
    options: tuple[str, ...] = ()


async def inspect_media(path: Path, *, sandbox: Sandbox, clock: Clock) -> Source:
    """What is in the file. Raises UnreadableMedia; Unavailable if the probe itself cannot run."""
    inspection = _Inspection("tandem.inspection.media_child", Source, UnreadableMedia, _media_limits(path))
    return await _inspect(inspection, (path,), sandbox, clock)


async def inspect_results(
    paths: Sequence[Path], compared: Comparison | None = None, *, sandbox: Sandbox, clock: Clock
) -> tuple[ResultReport, ...]:
    """What is in each of the files that a node has made, as far as it can be decoded. Raises as `inspect_media`.

    If that fails, it is done again without what they are compared with: a source that breaks its reader, or takes too
    long, is not the fault of who worked on it.
    """
    try:
        return await _results(paths, compared, sandbox, clock)
    except UnreadableMedia:
        if compared is None:
            raise
        return await _results(paths, None, sandbox, clock)


async def _results(
    paths: Sequence[Path], compared: Comparison | None, sandbox: Sandbox, clock: Clock
) -> tuple[ResultReport, ...]:
    module = "tandem.inspection.result_child"
    options = ("" if compared is None else compared.model_dump_json(),)
    limits = _media_limits(*paths)
    if compared is not None:
        limits = replace(limits, memory_mib=limits.memory_mib + _BYTES_A_PIXEL * compared.pixels // _MIB)
    inspection = _Inspection(module, ResultsReport, UnreadableMedia, limits, options)
    readable = (*paths, *(() if compared is None else (compared.source,)))
    found = (await _inspect(inspection, paths, sandbox, clock, readable)).files
    if len(found) != len(paths):
        raise UnreadableMedia(f"expected facts of {len(paths)} files, got those of {len(found)}")
    return found


async def measure_complexity(path: Path, duration_us: int, *, sandbox: Sandbox, clock: Clock) -> ComplexityReport:
    """How hard the video in the file is to encode; about a second. Raises as `inspect_media`."""
    module = "tandem.inspection.complexity_child"
    limits = Limits(memory_mib=_MEDIA_MIB, wall_seconds=_MEDIA_SECONDS, cpu_seconds=_MEDIA_SECONDS, file_bytes=0)
    inspection = _Inspection(module, ComplexityReport, UnreadableMedia, limits, (str(duration_us),))
    return await _inspect(inspection, (path,), sandbox, clock)


async def inspect_model(path: Path, trial: Trial, *, sandbox: Sandbox, clock: Clock) -> ModelReport:
    """What the ONNX file takes, gives and costs. Its folder holds its external data, and nothing else.

    Raises InvalidModel; Unavailable if the check itself cannot run.
    """
    with NamedTemporaryFile(prefix="tandem-trial-") as file:
        file.write(trial.model_dump_json().encode())
        file.flush()
        module, options = "tandem.inspection.model_child", (file.name,)
        inspection = _Inspection(module, ModelReport, InvalidModel, _model_limits(path), options)
        return await _inspect(inspection, (path,), sandbox, clock, (path.parent, Path(file.name)))


def _media_limits(*paths: Path) -> Limits:
    """Every packet is read, so a large file takes its time."""
    seconds = _MEDIA_SECONDS + sum(path.stat().st_size for path in paths) // _SLOWEST_READ
    return Limits(memory_mib=_MEDIA_MIB, wall_seconds=2 * seconds, cpu_seconds=seconds, file_bytes=0)


def _model_limits(path: Path) -> Limits:
    size = path.stat().st_size + sum(sizes_beside(path).values())
    memory = _MODEL_BASE_MIB + _COPIES_OF_A_MODEL * size // _MIB
    return Limits(memory_mib=memory, wall_seconds=2 * _MODEL_SECONDS, cpu_seconds=_MODEL_SECONDS, file_bytes=0)


async def _inspect(
    inspection: _Inspection[Facts],
    paths: Sequence[Path],
    sandbox: Sandbox,
    clock: Clock,
    readable: tuple[Path, ...] = (),
) -> Facts:
    argv = python_command(inspection.module, *map(str, paths), *inspection.options)
    confinement = Confinement(sandbox, readable=(*python_runtime(), *(readable or paths)))
    try:
        done = await run(argv, limits=inspection.limits, confinement=confinement, clock=clock, max_output=_MAX_ANSWER)
    except (ChildCrashed, AttemptTimeout, TooLarge) as error:
        raise inspection.refusal(f"expected a file that can be inspected within bounds; {error.detail}") from error
    if done.status:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.status}"
        raise Unavailable(f"expected an answer from {inspection.module}, got: {reason}")
    return _parse(inspection, done.stdout)


class _Reply(Frozen):
    """What a child says. One that was taken over by its file may say anything."""

    result: dict[str, Any] | None = None
    refused: str | None = Field(default=None, max_length=_MAX_REASON)


def _parse(inspection: _Inspection[Facts], stdout: bytes) -> Facts:
    try:
        reply = _Reply.model_validate_json(stdout)
        if reply.refused is None:
            return inspection.facts.model_validate(reply.result)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise inspection.refusal(f"expected facts within bounds, got {where}: {problem['msg']}") from error
    raise inspection.refusal(reply.refused)
