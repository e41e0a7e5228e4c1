"""Messages as WebSocket frames, bounded.

A message without tensors is a text frame of JSON. One with tensors is a binary frame: the length of the JSON in four
bytes (little-endian), the JSON, then the tensors' data one after the other.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from tandem.protocol.errors import InvalidTensor, MalformedMessage, UnknownMessage
from tandem.protocol.jobs import InferenceWork
from tandem.protocol.messages import Assign, Finished, Message
from tandem.protocol.outputs import InferenceOutput
from tandem.protocol.tensors import Tensor, TensorMeta, check_tensor

MAX_CONTROL_BYTES = 2**20
MAX_FRAME_BYTES = 2**26
"""Tensors of one message, together with its JSON."""

_LENGTH = struct.Struct("<I")
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
_TYPES = frozenset(kind.model_fields["type"].default for kind in get_args(Message))

Frame = str | bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and the tensors that came with it."""

    message: Message
    tensors: tuple[Tensor, ...] = ()


def encode(envelope: Envelope) -> Frame:
    """The frame of a message; raises MalformedMessage if it passes the bounds."""
    text = envelope.message.model_dump_json()
    head = text.encode()
    _bounded(len(head), MAX_CONTROL_BYTES)
    if not envelope.tensors:
        return text
    frame = b"".join([_LENGTH.pack(len(head)), head, *(tensor.data for tensor in envelope.tensors)])
    _bounded(len(frame), MAX_FRAME_BYTES)
    return frame


def decode(frame: Frame) -> Envelope:
    """The message in a frame. Raises MalformedMessage, or UnknownMessage for a type that is not in the union."""
    if isinstance(frame, str):
        head, body = frame.encode(), b""
    else:
        head, body = _split(frame)
    _bounded(len(head), MAX_CONTROL_BYTES)
    message = _parse(head)
    return Envelope(message, _tensors(_metas(message), body))


def _split(frame: bytes) -> tuple[bytes, bytes]:
    _bounded(len(frame), MAX_FRAME_BYTES)
    if len(frame) < _LENGTH.size:
        raise MalformedMessage(f"expected a binary frame of at least {_LENGTH.size} bytes, got {len(frame)}")
    (length,) = _LENGTH.unpack_from(frame)
    end = _LENGTH.size + length
    if end > len(frame):
        raise MalformedMessage(f"expected {length} bytes of JSON, got {len(frame) - _LENGTH.size}")
    return frame[_LENGTH.size : end], frame[end:]


def _parse(head: bytes) -> Message:
    try:
        return _MESSAGE.validate_json(head)
    except ValidationError as error:
        kind = _kind(head)
        if kind is not None and kind not in _TYPES:
            raise UnknownMessage(f"expected one of {sorted(_TYPES)}, got {kind[:64]!r}") from None
        found = error.errors(include_url=False, include_context=False, include_input=False)[:5]
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))[:200]}: {problem['msg'][:200]}" for problem in found)
        raise MalformedMessage(f"expected a message of this protocol, got one with errors: {problems}") from None


def _kind(head: bytes) -> str | None:
    try:
        value: Any = json.loads(head)
    except (ValueError, RecursionError):
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _metas(message: Message) -> Sequence[TensorMeta]:
    match message:
        case Assign(work=InferenceWork(inputs=metas)):
            return metas
        case Finished(output=InferenceOutput(outputs=metas)):
            return metas
        case _:
            return ()


def _tensors(metas: Sequence[TensorMeta], body: bytes) -> tuple[Tensor, ...]:
    expected = sum(meta.size for meta in metas)
    if expected != len(body):
        raise MalformedMessage(f"expected {expected} bytes of tensors after the JSON, got {len(body)}")
    tensors, offset = [], 0
    for meta in metas:
        data = body[offset : offset + meta.size]
        tensors.append(Tensor(name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data))
        offset += meta.size
    try:
        for tensor in tensors:
            check_tensor(tensor)
    except InvalidTensor as error:  # it contradicts its own description
        raise MalformedMessage(error.detail) from error
    return tuple(tensors)


def _bounded(size: int, bound: int) -> None:
    if size > bound:
        raise MalformedMessage(f"expected a message of at most {bound} bytes, got {size}; send less at once")
