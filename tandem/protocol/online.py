"""Requests on line and their answers, as the heads and bodies of a stream's messages.

    request   digest of the model (32), price in wei (8), layout
    response  microseconds of the run (4), of waiting for it (4), requests that were run together (4), flags (1), layout

A layout is two lists of texts (the outputs that are wanted; the provider, alone) and tensors:

    number of texts (1), each: length (2), UTF-8
    number of tensors (1), each: name as a text, datatype as a text, rank (1), dimensions (8 each), bytes of data (8)

The data of the tensors are the body, one after the other. Layouts repeat from request to request, so they are read and
written once and remembered: a head takes some microseconds less than the same in JSON.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from tandem.protocol.errors import InvalidTensor, MalformedMessage
from tandem.protocol.tensors import (
    MAX_ELEMENTS,
    MAX_RANK,
    MAX_TENSORS,
    Datatype,
    Tensor,
    check_tensor,
    element_size,
    elements,
)

_REQUEST = struct.Struct("<32sQ")
_RESPONSE = struct.Struct("<IIIB")
_TEXT = struct.Struct("<H")
_SIZE = struct.Struct("<Q")
_MOST = 2**32 - 1
MAX_PRICE = 2**64 - 1
"""Wei of one request on line."""
_MAX_TEXT = 512
_REMEMBERED = 1024
_REMEMBERED_BYTES = 1024
_DIGEST = "sha256:"


class TensorLayout(NamedTuple):
    """A tensor without its data."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    size: int
    """Bytes."""


class Layout(NamedTuple):
    texts: tuple[str, ...]
    tensors: tuple[TensorLayout, ...]
    size: int
    """Bytes of all tensors."""


class RequestHead(NamedTuple):
    """What a request says but for its tensors."""

    digest: str
    """Of the model."""
    price: int
    """Wei that an answer earns, by the node's offer."""
    outputs: tuple[str, ...]
    """Those that are wanted; empty: all."""


class ResponseHead(NamedTuple):
    """What an answer says but for its tensors. Nothing in it is believed but for show."""

    provider: str
    run_us: int
    """Microseconds of the run itself."""
    queue_us: int
    """Microseconds that the request waited on the node for the run to begin."""
    batch: int
    """Requests that were run together."""
    warm: bool
    """Whether the model was loaded when the request came."""


def encode_request(head: RequestHead, inputs: Sequence[Tensor]) -> bytes:
    """The head; the body is the inputs' data. Raises MalformedMessage for what no peer would take."""
    fixed = _REQUEST.pack(bytes.fromhex(head.digest[len(_DIGEST) :]), head.price)
    return fixed + _layout_of(head.outputs, inputs)


def decode_request(head: bytes, body: memoryview) -> tuple[RequestHead, tuple[Tensor, ...]]:
    """Raises MalformedMessage; InvalidTensor if a tensor contradicts its own description."""
    asked, layout = _remembered_request(head) if len(head) <= _REMEMBERED_BYTES else _parsed_request(head)
    return asked, _tensors(layout, body)


def encode_response(head: ResponseHead, outputs: Sequence[Tensor]) -> bytes:
    """The head; the body is the outputs' data. Raises MalformedMessage for what no peer would take."""
    fixed = _RESPONSE.pack(
        min(head.run_us, _MOST), min(head.queue_us, _MOST), min(head.batch, _MOST), 1 if head.warm else 0
    )
    return fixed + _layout_of((head.provider,), outputs)


def decode_response(head: bytes, body: memoryview) -> tuple[ResponseHead, tuple[Tensor, ...]]:
    """Raises MalformedMessage; InvalidTensor if a tensor contradicts its own description."""
    if len(head) < _RESPONSE.size:
        raise MalformedMessage(f"expected a response's head of at least {_RESPONSE.size} bytes, got {len(head)}")
    run_us, queue_us, batch, flags = _RESPONSE.unpack_from(head)
    layout = _read(head[_RESPONSE.size :])
    if len(layout.texts) != 1:
        raise MalformedMessage(f"expected one provider, got {len(layout.texts)}")
    return ResponseHead(layout.texts[0], run_us, queue_us, batch, bool(flags)), _tensors(layout, body)


def describe_response(head: bytes, size: int) -> tuple[TensorLayout, ...]:
    """The tensors of an answer of which the body, of so many bytes, is not taken. Raises MalformedMessage."""
    layout = _read(head[_RESPONSE.size :])
    if layout.size != size:
        raise MalformedMessage(f"expected {layout.size} bytes of tensors, got {size}")
    return layout.tensors


def _layout_of(texts: tuple[str, ...], tensors: Sequence[Tensor]) -> bytes:
    return _written(texts, tuple([(name, datatype, shape, len(data)) for name, datatype, shape, data in tensors]))


@lru_cache(_REMEMBERED)
def _written(texts: tuple[str, ...], tensors: tuple[tuple[str, Datatype, tuple[int, ...], int], ...]) -> bytes:
    if len(texts) > MAX_TENSORS or len(tensors) > MAX_TENSORS:
        raise MalformedMessage(f"expected at most {MAX_TENSORS} tensors, got {len(texts)} and {len(tensors)}")
    pieces = [bytes((len(texts),)), *map(_text, texts), bytes((len(tensors),))]
    for name, datatype, shape, size in tensors:
        pieces += [_text(name), _text(datatype), bytes((len(shape),)), struct.pack(f"<{len(shape)}Q", *shape)]
        pieces.append(_SIZE.pack(size))
    return b"".join(pieces)


def _text(text: str) -> bytes:
    data = text.encode()
    if not 0 < len(data) <= _MAX_TEXT:
        raise MalformedMessage(f"expected a name of 1 to {_MAX_TEXT} bytes, got {len(data)}")
    return _TEXT.pack(len(data)) + data


def _read(data: bytes) -> Layout:
    """Long layouts are not remembered, or a peer could fill the memory with them."""
    return _remembered(data) if len(data) <= _REMEMBERED_BYTES else _parsed(data)


@lru_cache(_REMEMBERED)
def _remembered(data: bytes) -> Layout:
    return _parsed(data)


@lru_cache(_REMEMBERED)
def _remembered_request(head: bytes) -> tuple[RequestHead, Layout]:
    return _parsed_request(head)


def _parsed_request(head: bytes) -> tuple[RequestHead, Layout]:
    if len(head) < _REQUEST.size:
        raise MalformedMessage(f"expected a request's head of at least {_REQUEST.size} bytes, got {len(head)}")
    digest, price = _REQUEST.unpack_from(head)
    layout = _parsed(head[_REQUEST.size :])
    return RequestHead(_DIGEST + digest.hex(), price, layout.texts), layout


def _parsed(data: bytes) -> Layout:
    reader = _Reader(data)
    try:
        texts = tuple(reader.text() for _ in range(reader.count()))
        tensors = tuple(reader.tensor() for _ in range(reader.count()))
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedMessage(f"expected the layout of a request's tensors: {error}") from error
    if reader.at != len(data):
        raise MalformedMessage(f"expected the layout of tensors in {reader.at} bytes, got {len(data)}")
    return Layout(texts, tensors, sum(tensor.size for tensor in tensors))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def count(self) -> int:
        return self._within(self._byte(), MAX_TENSORS)

    def text(self) -> str:
        (size,) = _TEXT.unpack_from(self._data, self.at)
        start = self.at + _TEXT.size
        self.at = start + self._within(size, _MAX_TEXT)
        if not size or self.at > len(self._data):
            raise ValueError(f"expected a name of {size} bytes, got {len(self._data) - start}")
        return self._data[start : self.at].decode()

    def tensor(self) -> TensorLayout:
        name, datatype = self.text(), Datatype(self.text())
        rank = self._within(self._byte(), MAX_RANK)
        shape = struct.unpack_from(f"<{rank}Q", self._data, self.at)
        self.at += 8 * rank
        (size,) = _SIZE.unpack_from(self._data, self.at)
        self.at += _SIZE.size
        self._within(elements([max(1, each) for each in shape]), MAX_ELEMENTS - 1)
        self._within(size, MAX_ELEMENTS)
        each = element_size(datatype)
        if each is not None and each * elements(shape) != size:
            raise InvalidTensor(
                f"tensor {name[:128]!r}: expected {each * elements(shape)} bytes for {datatype} {list(shape)}, "
                f"got {size}"
            )
        return TensorLayout(name, datatype, shape, size)

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    @staticmethod
    def _within(value: int, most: int) -> int:
        if value > most:
            raise ValueError(f"expected at most {most}, got {value}")
        return value


def _tensors(layout: Layout, body: memoryview) -> tuple[Tensor, ...]:
    """Views of the body."""
    if layout.size != len(body):
        raise MalformedMessage(f"expected {layout.size} bytes of tensors, got {len(body)}")
    tensors, offset = [], 0
    for name, datatype, shape, size in layout.tensors:
        tensor = Tensor(name, datatype, shape, body[offset : offset + size])
        if datatype is Datatype.BYTES:
            check_tensor(tensor)
        tensors.append(tensor)
        offset += size
    return tuple(tensors)
