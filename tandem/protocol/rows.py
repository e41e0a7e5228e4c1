"""Files of rows, by which batches travel: the inputs of a shard to a node, and its answers back.

A row is the length of its head and of its data in four bytes each (little-endian), the head as JSON, and the data of
its tensors one after the other. A row of which something is wrong has no tensors; its head says what.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from pydantic import Field, ValidationError

from tandem.protocol.codec import MAX_CONTROL_BYTES, MAX_FRAME_BYTES
from tandem.protocol.errors import InvalidTensor, MalformedMessage
from tandem.protocol.ids import Frozen, Label
from tandem.protocol.tensors import MAX_TENSORS, Tensor, TensorMeta, check_tensor

MAX_HEAD_BYTES = 2**16
MAX_ROW_BYTES = MAX_FRAME_BYTES - MAX_CONTROL_BYTES
"""Of the tensors of one row: what one run of a model may take or give."""
MAX_DETAIL = 2000
"""Characters that say what is wrong with a row."""

_LENGTHS = struct.Struct("<II")
_KNOWN_HEADS = 256


class Fault(Frozen):
    """Why a row has no answer."""

    code: Label
    detail: str = Field(max_length=MAX_DETAIL)


class RowHead(Frozen):
    tensors: tuple[TensorMeta, ...] = Field(default=(), max_length=MAX_TENSORS)
    id: str | None = Field(default=None, max_length=128)
    """As the submitter's line has it."""
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Row:
    tensors: tuple[Tensor, ...] = ()
    id: str | None = None
    fault: Fault | None = None


def pack_row(row: Row) -> bytes:
    metas = tuple(tensor.meta for tensor in row.tensors)
    head = RowHead.model_construct(tensors=metas, id=row.id, fault=row.fault).model_dump_json(exclude_none=True)
    text = head.encode()
    data = [tensor.data for tensor in row.tensors]
    return b"".join((_LENGTHS.pack(len(text), sum(map(len, data))), text, *data))


def read_heads(file: BinaryIO, end: int) -> Iterator[RowHead]:
    """The heads from where the file stands to `end`, passing over the data. Raises MalformedMessage."""
    for head, size in _heads(file, end):
        file.seek(size, 1)
        yield head


def read_rows(file: BinaryIO, end: int) -> Iterator[Row]:
    """The rows from where the file stands to `end`, one in memory at a time. Raises MalformedMessage."""
    for head, size in _heads(file, end):
        data = file.read(size)
        if len(data) != size:
            raise MalformedMessage(f"expected a row of {size} bytes at byte {file.tell()}, got the end of the file")
        yield Row(tuple(_tensors(head.tensors, data)), head.id, head.fault)


def _heads(file: BinaryIO, end: int) -> Iterator[tuple[RowHead, int]]:
    """Each head with the size of the data, at whose beginning the file then stands."""
    at = file.tell()
    while at < end:
        length, size = _lengths(file, at, end)
        head = _parse(file.read(length))
        declared = sum(meta.size for meta in head.tensors)
        if declared != size:
            raise MalformedMessage(f"expected {declared} bytes of tensors in the row at byte {at}, got {size}")
        at += _LENGTHS.size + length + size
        yield head, size


def _lengths(file: BinaryIO, at: int, end: int) -> tuple[int, int]:
    start = file.read(_LENGTHS.size)
    if len(start) < _LENGTHS.size:
        raise MalformedMessage(f"expected a row at byte {at}, got the end of the file")
    length, size = _LENGTHS.unpack(start)
    if length > MAX_HEAD_BYTES or size > MAX_ROW_BYTES or at + _LENGTHS.size + length + size > end:
        raise MalformedMessage(
            f"expected a head of at most {MAX_HEAD_BYTES} bytes and data of at most {MAX_ROW_BYTES} before byte {end}, "
            f"got {length} and {size} in the row at byte {at}"
        )
    return length, size


@lru_cache(_KNOWN_HEADS)
def _parse(text: bytes) -> RowHead:
    """Rows that are alike have the same head."""
    try:
        return RowHead.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))[:200]
        raise MalformedMessage(f"expected the head of a row, got {where}: {problem['msg'][:200]}") from None


def _tensors(metas: Iterable[TensorMeta], data: bytes) -> Iterator[Tensor]:
    offset = 0
    for meta in metas:
        tensor = Tensor(
            name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data[offset : offset + meta.size]
        )
        try:
            check_tensor(tensor)
        except InvalidTensor as error:
            raise MalformedMessage(error.detail) from error
        offset += meta.size
        yield tensor
