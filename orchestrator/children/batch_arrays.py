"""Columns of arrays as rows: what the formats share that hold one array an input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.protocol.errors import UnreadableBatch
from tandem.protocol.rows import MAX_ROW_BYTES, Row
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec, join_bytes

DTYPES: dict[Datatype, "np.dtype[Any]"] = {
    Datatype.BOOL: np.dtype("?"),
    Datatype.UINT8: np.dtype("u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class Column:
    spec: TensorSpec
    rows: int
    shape: tuple[int, ...]
    """Of each row."""
    parts: Iterator[bytes]
    """The data of each row."""


def columns_to_rows(columns: Sequence[Column]) -> Iterator[Row]:
    """Raises UnreadableBatch for columns of different length."""
    counts = {column.spec.name: column.rows for column in columns}
    if len(set(counts.values())) > 1:
        raise UnreadableBatch(f"expected as many rows in each column, got {counts}")
    for number, parts in enumerate(zip(*(column.parts for column in columns), strict=True), 1):
        size = sum(map(len, parts))
        if size > MAX_ROW_BYTES:
            raise UnreadableBatch(f"row {number}: expected inputs of at most {MAX_ROW_BYTES} bytes, got {size}")
        yield Row(
            tuple(
                Tensor(name=column.spec.name, datatype=column.spec.datatype, shape=column.shape, data=data)
                for column, data in zip(columns, parts, strict=True)
            )
        )


def datatype_of(dtype: "np.dtype[Any]") -> Datatype | None:
    """What the protocol calls it, whatever its byte order; None for what it does not have."""
    if dtype.kind in "SU":
        return Datatype.BYTES
    little = dtype.newbyteorder("<")
    return next((datatype for datatype, known in DTYPES.items() if known == little), None)


def row_shape(spec: TensorSpec, datatype: Datatype | None, rest: Sequence[int]) -> tuple[int, ...]:
    """The shape of one row of a column whose rows have the shape `rest`: with an axis of 1 before it, if so much is
    lacking and the model's first axis may be 1, as that of a batch is. Raises UnreadableBatch.
    """
    if datatype is not spec.datatype:
        raise UnreadableBatch(f"column {spec.name!r}: expected {spec.datatype}, got {datatype or 'another type'}")
    leads = len(spec.shape) == len(rest) + 1 and spec.shape[0] in {-1, 1}
    shape = (1, *rest) if leads else tuple(rest)
    fits = len(shape) == len(spec.shape) and all(want in {-1, got} for want, got in zip(spec.shape, shape, strict=True))
    if not fits:
        raise UnreadableBatch(
            f"column {spec.name!r}: expected rows of shape {list(spec.shape)} (-1 is any), got {list(rest)}"
        )
    return shape


def bytes_of(spec: TensorSpec, value: Any) -> bytes:
    """One row as raw bytes."""
    if spec.datatype is not Datatype.BYTES:
        return np.ascontiguousarray(value, DTYPES[spec.datatype]).tobytes()
    items = np.asarray(value).reshape(-1).tolist()
    return join_bytes(item.encode() if isinstance(item, str) else item for item in items)
