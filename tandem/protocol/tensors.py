"""Tensors, spelled as in the Open Inference Protocol (v2): name, shape, datatype, data.

Inside Tandem the data are raw bytes, row-major and little-endian; BYTES elements are each prefixed by their length in
four bytes, as in that protocol's binary extension. JSON lists exist only at the API's edge.
"""

import base64
import math
import struct
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import chain
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from tandem.protocol.errors import InvalidTensor
from tandem.protocol.ids import Frozen, Label
from tandem.protocol.wording import shown

MAX_TENSORS = 64
MAX_RANK = 16
MAX_ELEMENTS = 2**40
MAX_STRINGS = 2**16
"""Elements of a BYTES tensor: they are taken apart one by one, where empty ones would cost most and weigh least."""


class Datatype(StrEnum):
    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"


_FORMATS = {
    Datatype.BOOL: "?",
    Datatype.UINT8: "B",
    Datatype.UINT16: "H",
    Datatype.UINT32: "I",
    Datatype.UINT64: "Q",
    Datatype.INT8: "b",
    Datatype.INT16: "h",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP16: "e",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
    Datatype.BF16: "H",
}
_SIZES = {datatype: struct.calcsize(letter) for datatype, letter in _FORMATS.items()}
_LENGTH = struct.Struct("<I")

_BF16_SHIFT = 16
"""A BF16 is the upper half of an FP32."""
_FP32_INFINITY = 0x7F800000
_FP32_MAGNITUDE = 0x7FFFFFFF
_BF16_QUIET = 0x40


def _addressable(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Dimensions beside a zero count too: libraries multiply them all the same, and fail or allocate.
    if math.prod(max(1, size) for size in shape) >= MAX_ELEMENTS:
        raise ValueError(f"expected fewer than {MAX_ELEMENTS} elements")
    return shape


FixedShape = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=MAX_ELEMENTS)], ...], Field(max_length=MAX_RANK), AfterValidator(_addressable)
]
OpenShape = Annotated[tuple[Annotated[int, Field(ge=-1, lt=MAX_ELEMENTS)], ...], Field(max_length=MAX_RANK)]


class TensorSpec(Frozen):
    """What a model takes or gives; -1 stands for a dimension that may vary."""

    name: Label
    datatype: Datatype
    shape: OpenShape


class TensorMeta(Frozen):
    """A tensor without its data, which follow in a binary frame: `size` bytes."""

    name: Label
    datatype: Datatype
    shape: FixedShape
    size: int = Field(ge=0, lt=2**40)


class TensorJson(Frozen):
    """A tensor as a submitter writes it: `data` is a list, flat or nested like the shape."""

    name: Label
    datatype: Datatype
    shape: FixedShape
    data: list[Any]


class Tensor(NamedTuple):
    """A tensor with its data as raw bytes. Nothing is checked when it is made, which costs next to nothing."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: bytes | memoryview

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.datatype}, {list(self.shape)}, {len(self.data)} bytes)"

    @property
    def meta(self) -> TensorMeta:
        return TensorMeta.model_construct(name=self.name, datatype=self.datatype, shape=self.shape, size=len(self.data))


def element_size(datatype: Datatype) -> int | None:
    """Bytes an element; None for BYTES, whose elements vary."""
    return _SIZES.get(datatype)


def elements(shape: Sequence[int]) -> int:
    return math.prod(shape)


def tensor_from_json(tensor: TensorJson) -> Tensor:
    """Raw bytes from a list; raises InvalidTensor naming the tensor, what was expected and what came."""
    return tensor_of(tensor.name, tensor.datatype, tensor.shape, tensor.data)


def tensor_of(name: str, datatype: Datatype, shape: tuple[int, ...], data: list[Any]) -> Tensor:
    """Raw bytes from a list, flat or nested like the shape; raises InvalidTensor as above."""
    flat = _flat(name, shape, data)
    try:
        return Tensor(name, datatype, shape, _pack(datatype, flat))
    except (struct.error, TypeError, OverflowError, ValueError) as error:
        raise InvalidTensor(f"tensor {name!r}: expected elements of {datatype}, {_misfit(datatype, flat)}") from error


def _misfit(datatype: Datatype, flat: Sequence[Any]) -> str:
    """The first element that the datatype does not hold."""
    for place, each in enumerate(flat):
        try:
            _pack(datatype, [each])
        except (struct.error, TypeError, OverflowError, ValueError):
            return f"got {shown(each)} as number {place + 1}"
    return "got others"


def tensor_to_json(tensor: Tensor) -> TensorJson:
    """The list form of a tensor, flat. BYTES that are not UTF-8 come as base64."""
    if tensor.datatype is Datatype.BYTES:
        data: list[Any] = [_text(item) for item in split_bytes(tensor)]
    else:
        data = numbers_of(tensor)
    return TensorJson(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, data=data)


def numbers_of(tensor: Tensor) -> list[Any]:
    """The elements of a tensor that is not of BYTES: int, float or bool."""
    count = elements(tensor.shape)
    found = struct.unpack(f"<{count}{_FORMATS[tensor.datatype]}", tensor.data)
    if tensor.datatype is Datatype.BF16:
        words = struct.pack(f"<{count}I", *(half << _BF16_SHIFT for half in found))
        return list(struct.unpack(f"<{count}f", words))
    return list(found)


def split_bytes(tensor: Tensor) -> list[bytes]:
    """The elements of a BYTES tensor; raises InvalidTensor if they are too many or the lengths do not add up."""
    items: list[bytes] = []
    offset, data, expected = 0, tensor.data, elements(tensor.shape)
    if expected > MAX_STRINGS:
        raise InvalidTensor(
            f"tensor {tensor.name!r}: expected at most {MAX_STRINGS} elements of BYTES, got {expected}; send fewer"
        )
    while offset < len(data) and len(items) < expected:
        if offset + _LENGTH.size > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, offset)
        items.append(bytes(data[offset + _LENGTH.size : offset + _LENGTH.size + length]))
        offset += _LENGTH.size + length
    if offset != len(data) or len(items) != expected:
        raise InvalidTensor(
            f"tensor {tensor.name!r}: expected {expected} length-prefixed elements in all of {len(data)} bytes, "
            f"got {len(items)} in {offset}"
        )
    return items


def join_bytes(items: Iterable[bytes]) -> bytes:
    """The raw form of BYTES elements."""
    return b"".join(_LENGTH.pack(len(item)) + item for item in items)


def check_tensor(tensor: Tensor) -> None:
    """Raises InvalidTensor unless the data have the size that shape and datatype call for."""
    size = element_size(tensor.datatype)
    if size is None:
        split_bytes(tensor)
    elif len(tensor.data) != size * elements(tensor.shape):
        raise InvalidTensor(
            f"tensor {tensor.name!r}: expected {size * elements(tensor.shape)} bytes for {tensor.datatype} "
            f"{list(tensor.shape)}, got {len(tensor.data)}"
        )


def fits(spec: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a tensor may have the shape; in the spec's, -1 is any size."""
    return len(spec) == len(shape) and all(want in (-1, got) for want, got in zip(spec, shape, strict=True))


def check_tensors(specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> None:
    """Raises InvalidTensor unless the tensors are what the specs ask for: each once, right datatype, shape, size."""
    wanted = {spec.name: spec for spec in specs}
    given = [tensor.name for tensor in tensors]
    if sorted(given) != sorted(wanted):
        raise InvalidTensor(f"expected the tensors {sorted(wanted)}, each once, got {sorted(given)}")
    for tensor in tensors:
        _check_spec(wanted[tensor.name], tensor)
        check_tensor(tensor)


def _check_spec(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype is not spec.datatype:
        raise InvalidTensor(f"tensor {spec.name!r}: expected datatype {spec.datatype}, got {tensor.datatype}")
    if not fits(spec.shape, tensor.shape):
        raise InvalidTensor(
            f"tensor {spec.name!r}: expected shape {list(spec.shape)} (-1 is any), got {list(tensor.shape)}"
        )


def _flat(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    """The elements, row-major, of data that are flat or nested like the shape."""
    nested = any(isinstance(item, list) for item in data)
    rows: list[Any] = [data]
    for size in shape if nested else (elements(shape),):
        for row in rows:
            if not isinstance(row, list) or len(row) != size:
                got = f"a list of {len(row)}" if isinstance(row, list) else "a single element"
                raise InvalidTensor(
                    f"tensor {name!r}: expected data for shape {list(shape)}, flat or nested like it, "
                    f"got {got} in place of {size} elements"
                )
        rows = list(chain.from_iterable(rows))
    return rows


def _pack(datatype: Datatype, flat: list[Any]) -> bytes:
    kinds = set(map(type, flat))
    if datatype is Datatype.BYTES:
        _demand(kinds <= {str})
        return join_bytes(item.encode() for item in flat)
    if datatype is Datatype.BOOL:
        _demand(kinds <= {bool})
    else:
        _demand(bool not in kinds)
    if datatype is Datatype.BF16:
        words = struct.unpack(f"<{len(flat)}I", struct.pack(f"<{len(flat)}f", *flat))
        return struct.pack(f"<{len(flat)}H", *map(_bf16, words))
    return struct.pack(f"<{len(flat)}{_FORMATS[datatype]}", *flat)


def _bf16(word: int) -> int:
    """The nearest BF16 to an FP32, both as bits; of two as near, the even one."""
    upper = word >> _BF16_SHIFT
    if word & _FP32_MAGNITUDE > _FP32_INFINITY:
        return upper | _BF16_QUIET  # else rounding could make an infinity of it
    return (word + 0x7FFF + (upper & 1)) >> _BF16_SHIFT


def _demand(condition: bool) -> None:
    if not condition:
        raise TypeError


def _text(item: bytes) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return base64.b64encode(item).decode()
