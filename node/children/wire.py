"""Between the daemon and an inference worker: small messages over a socket that keeps them apart, and tensors in
memory that both share.

A message is a head of fixed size and a JSON text, one of those below. The same few texts come over and over, since what
changes from request to request is in the head or in the tensors; so each side remembers what the last ones meant.
The shared memory has a number of lanes, one for each request under way: inputs in the first half of it, outputs in the
second, each tensor at a multiple of ALIGNMENT. The daemon alone hands lanes out.
"""

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter

from tandem.protocol.codec import MAX_FRAME_BYTES
from tandem.protocol.errors import InvalidTensor, TooLarge
from tandem.protocol.ids import ArtifactId, Frozen, Label
from tandem.protocol.models import FileName, WarmUpTensor
from tandem.protocol.tensors import MAX_TENSORS, Datatype, TensorMeta, element_size, elements

MAX_BODY_BYTES = MAX_FRAME_BYTES
"""Of the inputs of a request, and of its outputs."""
ALIGNMENT = 64
HALF_LANE = MAX_BODY_BYTES + MAX_TENSORS * ALIGNMENT
MAX_MESSAGE_BYTES = 2**17

DIGITS = r"^[0-9a-f]{64}$"

_MEMORY = 256

Tensors = Annotated[tuple[TensorMeta, ...], Field(max_length=MAX_TENSORS)]


class Kind(IntEnum):
    READY = 1
    LOAD = 2
    LOADED = 3
    UNLOAD = 4
    RUN = 5
    DONE = 6
    FAILED = 7


class Head(NamedTuple):
    """Of every message. `lane` and `run_us`, the microseconds of the run itself, are 0 where they mean nothing."""

    kind: int
    lane: int
    run_us: int
    number: int
    """Of the order, and of the answer to it."""


HEAD = struct.Struct("<BBIQ")
NUMBER = struct.Struct("<Q")
"""Written to the worker's standard input: end the order of this number."""


class WorkerSettings(Frozen):
    """The worker's one argument, as JSON."""

    models: Path
    """The folder of model artifacts, each named by the hexadecimal digits of its sha256."""
    providers: tuple[Label, ...] = Field(min_length=1)
    """To try; those that fail are left out."""
    device: int = Field(default=0, ge=0)
    threads: int = Field(ge=1)
    """Of one run."""
    slots: int = Field(ge=1)
    """Runs at once."""
    lanes: int = Field(ge=1, le=255)
    memory_bytes: int = Field(ge=0)
    """Of address space, or of the GPU's arena, that models may take."""
    socket: int = 0
    """Descriptor of the messages' socket."""
    shared: int = 0
    """Descriptor of the shared memory."""


class Ready(Frozen):
    """The first message: what passed the trial."""

    providers: tuple[Label, ...]
    version: Label
    missing: tuple[str, ...] = ()
    """Why a provider that was asked for is not there."""


class Load(Frozen):
    """Files are named by the digits of their digests."""

    model: ArtifactId
    """The digest of all files."""
    file: Annotated[str, Field(pattern=DIGITS)]
    data: Mapping[FileName, Annotated[str, Field(pattern=DIGITS)]] = {}
    provider: Label
    warm_up: tuple[tuple[WarmUpTensor, ...], ...] = ()


class Loaded(Frozen):
    provider: Label
    memory: int = Field(ge=0)
    """Bytes, measured."""
    vram: int = Field(default=0, ge=0)
    partial: bool = False
    """Whether some operators run on the CPU, since the provider has none of the kind."""
    batchable: bool
    """Whether the first dimension of all inputs and outputs is open, and none are strings."""


class Call(Frozen):
    """A run. The inputs lie in the lane, in this order."""

    model: ArtifactId
    inputs: Tensors
    outputs: Annotated[tuple[Label, ...], Field(max_length=MAX_TENSORS)] = ()
    """Empty: all that the model has."""


class Failed(Frozen):
    code: Label
    detail: str
    retryable: bool


class Layout(NamedTuple):
    """Where tensors lie in their half of a lane."""

    metas: tuple[TensorMeta, ...]
    offsets: tuple[int, ...]
    end: int


Facts = tuple[str, Datatype, tuple[int, ...], int]
"""Of a tensor: name, datatype, shape, bytes."""

_OUTPUTS: TypeAdapter[tuple[TensorMeta, ...]] = TypeAdapter(Tensors)


def offsets_of(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Of tensors of these sizes one after the other, and where the last one ends."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = offsets[-1] + size
    return tuple(offsets), end


@lru_cache(_MEMORY)
def call_text(model: str, inputs: tuple[Facts, ...], outputs: tuple[str, ...]) -> tuple[bytes, tuple[int, ...]]:
    """The text of a call, and where its inputs lie.

    Raises InvalidTensor unless names and shapes are within bounds and the sizes what they should be, TooLarge for
    more than half a lane.
    """
    if len(inputs) > MAX_TENSORS or len(outputs) > MAX_TENSORS:
        raise InvalidTensor(f"expected at most {MAX_TENSORS} tensors, got {len(inputs)} and {len(outputs)}")
    call = Call(model=model, inputs=tuple(map(_meta, inputs)), outputs=outputs)
    offsets, end = offsets_of([facts[3] for facts in inputs])
    if end > HALF_LANE:
        raise TooLarge(f"expected inputs of at most {MAX_BODY_BYTES} bytes in all, got {end}; send fewer at once")
    return call.model_dump_json().encode(), offsets


def _meta(facts: Facts) -> TensorMeta:
    name, datatype, shape, size = facts
    width = element_size(datatype)
    if width is not None and size != width * elements(shape):
        raise InvalidTensor(
            f"tensor {name!r}: expected {width * elements(shape)} bytes for {datatype} {list(shape)}, got {size}"
        )
    try:
        return TensorMeta(name=name, datatype=datatype, shape=shape, size=size)
    except ValueError as error:
        raise InvalidTensor(f"tensor {name[:100]!r}: expected a name and a shape within bounds: {error}") from error


@lru_cache(_MEMORY)
def read_call(text: bytes) -> tuple[Call, tuple[int, ...]]:
    """The call, and where its inputs lie."""
    call = Call.model_validate_json(text)
    return call, offsets_of([meta.size for meta in call.inputs])[0]


@lru_cache(_MEMORY)
def outputs_text(outputs: tuple[Facts, ...]) -> bytes:
    """Raises ValueError if one of them is over a bound."""
    metas = tuple(TensorMeta(name=each[0], datatype=each[1], shape=each[2], size=each[3]) for each in outputs)
    return _OUTPUTS.dump_json(metas)


@lru_cache(_MEMORY)
def read_outputs(text: bytes) -> Layout:
    """Raises ValueError or InvalidTensor unless they fit into their half of a lane and have the size they should."""
    metas = _OUTPUTS.validate_json(text)
    for meta in metas:
        _meta((meta.name, meta.datatype, meta.shape, meta.size))
    offsets, end = offsets_of([meta.size for meta in metas])
    if end > HALF_LANE:
        raise InvalidTensor(f"expected outputs of at most {HALF_LANE} bytes, got {end}")
    return Layout(metas, offsets, end)
