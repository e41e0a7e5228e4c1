"""Frames between the daemon and its inference worker, over the worker's standard input and output.

A frame is two lengths of four bytes (little-endian), of the JSON and of the body; the JSON, one of the messages below;
and the body: the data of the message's tensors one after the other.
"""

import struct
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tandem.protocol.codec import MAX_CONTROL_BYTES, MAX_FRAME_BYTES
from tandem.protocol.errors import MalformedMessage
from tandem.protocol.ids import Frozen, Label
from tandem.protocol.tensors import MAX_TENSORS, TensorMeta

MAX_BODY_BYTES = MAX_FRAME_BYTES - MAX_CONTROL_BYTES
"""What fits into one message to the orchestrator, whatever its JSON."""

PREFIX = struct.Struct("<II")
MODEL_NAME = r"^[0-9a-f]{64}$"

Tensors = Annotated[tuple[TensorMeta, ...], Field(max_length=MAX_TENSORS)]


class WorkerSettings(Frozen):
    """The worker's one argument, as JSON."""

    models: Path
    """The folder of model artifacts, each named by the hexadecimal digits of its sha256."""
    providers: tuple[Label, ...] = Field(min_length=1)
    """In order of preference; those that fail a trial are left out."""
    device: int = Field(default=0, ge=0)
    threads: int = Field(ge=1)
    """Of one run."""
    slots: int = Field(ge=1)
    """Runs at once."""
    cache_bytes: int = Field(ge=0)
    """Of models kept loaded."""


class Run(Frozen):
    op: Literal["run"] = "run"
    id: int
    model: Annotated[str, Field(pattern=MODEL_NAME)]
    inputs: Tensors
    outputs: Annotated[tuple[Label, ...], Field(max_length=MAX_TENSORS)] = ()
    """Empty: all that the model has."""


class Cancel(Frozen):
    op: Literal["cancel"] = "cancel"
    id: int


class Ready(Frozen):
    """The first frame: what passed the trial."""

    op: Literal["ready"] = "ready"
    providers: tuple[Label, ...]
    version: Label
    missing: tuple[str, ...] = ()
    """Why a provider that was asked for is not there."""


class Done(Frozen):
    op: Literal["done"] = "done"
    id: int
    outputs: Tensors
    provider: Label
    run_us: int = Field(ge=0)
    """Microseconds of the run itself."""
    warm: bool
    """Whether the model was loaded already."""


class Failed(Frozen):
    op: Literal["failed"] = "failed"
    id: int
    code: Label
    detail: str
    retryable: bool


Order = Run | Cancel
Answer = Ready | Done | Failed

ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="op")])
ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="op")])


def head(message: Order | Answer, body_bytes: int) -> bytes:
    """All of a frame but its body."""
    text = message.model_dump_json().encode()
    return PREFIX.pack(len(text), body_bytes) + text


def lengths(prefix: bytes) -> tuple[int, int]:
    """Of the JSON and the body that follow; raises MalformedMessage over the bounds."""
    text, body = PREFIX.unpack(prefix)
    if text > MAX_CONTROL_BYTES or body > MAX_FRAME_BYTES:
        raise MalformedMessage(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {text} and {body}")
    return text, body
