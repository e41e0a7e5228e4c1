"""A submitter's file as rows, each one input of the model, read part by part; in a confined child process only.

Of JSON Lines a row that the model does not take is a row with a fault. The other formats have one shape and one
datatype for all rows, so that what does not fit is wrong with the whole file, and refused.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.children.batch_arrays import Column, bytes_of, columns_to_rows, datatype_of, row_shape
from orchestrator.children.batch_arrow import arrow_rows, can_hold
from tandem.protocol.errors import InvalidTensor, UnreadableBatch
from tandem.protocol.jobs import BatchFormat
from tandem.protocol.rows import MAX_DETAIL, MAX_ROW_BYTES, Fault, Row
from tandem.protocol.tensors import MAX_TENSORS, Datatype, TensorJson, TensorSpec, check_tensors, tensor_from_json
from tandem.protocol.wording import wording

MAX_LINE = 2**25
"""Bytes."""
_PART_BYTES = 2**20
_ZIP, _ARROW = b"PK\x03\x04", b"ARROW1\0\0"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_BLANK = b" \t\r\n"
_MARK = b"\xef\xbb\xbf"
"""What some editors put before UTF-8."""


def detect(path: Path) -> BatchFormat:
    """Raises UnreadableBatch."""
    with path.open("rb") as file:
        start = file.read(_PART_BYTES)
    if start.startswith(_ZIP):
        return BatchFormat.NPZ
    if start.startswith(_ARROW):
        return BatchFormat.ARROW
    if start.removeprefix(_MARK).lstrip(_BLANK).startswith(b"{"):
        return BatchFormat.JSONL
    if start.startswith(_ARROW_STREAM):
        raise UnreadableBatch("expected an Arrow IPC file, got a stream of Arrow; write it by pyarrow.ipc.new_file")
    raise UnreadableBatch(
        f"expected JSON Lines, an .npz or an Arrow IPC file, got one that begins with {start[:16]!r}; "
        "name its format if it is one of them"
    )


def rows_of(
    kind: BatchFormat, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Iterator[Row]:
    """Raises UnreadableBatch, when it comes to what is wrong."""
    if kind is BatchFormat.JSONL:
        return _lines(path, inputs)
    unfit = [spec for spec in outputs if kind is BatchFormat.NPZ and spec.datatype is Datatype.BYTES]
    if kind is BatchFormat.ARROW:
        unfit = [spec for spec in outputs if not can_hold(spec.datatype)]
    if unfit:
        raise UnreadableBatch(f"expected outputs that {kind} can hold, got {unfit[0].name!r} of {unfit[0].datatype}")
    return _arrays(path, inputs) if kind is BatchFormat.NPZ else arrow_rows(path, inputs)


class _Line(BaseModel):
    """An inference request; what it wants of outputs is the job's to say."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, max_length=128)
    inputs: tuple[TensorJson, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    parameters: dict[str, Any] | None = None


def _lines(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[Row]:
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise UnreadableBatch(f"row {number}: expected a line of at most {MAX_LINE} bytes, got a longer one")
            text = line.removeprefix(_MARK).strip(_BLANK) if number == 1 else line.strip(_BLANK)
            if text:
                yield _line(number, text, inputs)


def _line(number: int, text: bytes, inputs: Sequence[TensorSpec]) -> Row:
    try:
        line = _Line.model_validate_json(text)
    except ValidationError as error:
        return _faulty(number, wording(error, whole="the line"))
    except (RecursionError, MemoryError):
        return _faulty(number, "expected a request that fits into memory, got one nested too deep or too large")
    try:
        tensors = tuple(tensor_from_json(each) for each in line.inputs)
        check_tensors(inputs, tensors)
    except InvalidTensor as error:
        return _faulty(number, error.detail, line.id)
    size = sum(len(tensor.data) for tensor in tensors)
    if size > MAX_ROW_BYTES:
        return _faulty(number, f"expected inputs of at most {MAX_ROW_BYTES} bytes, got {size}", line.id)
    return Row(tensors, line.id)


def _faulty(number: int, why: str, name: str | None = None) -> Row:
    return Row(id=name, fault=Fault(code=InvalidTensor.code, detail=f"row {number}: {why}"[:MAX_DETAIL]))


def _arrays(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            members = _members(archive, [spec.name for spec in inputs])
            opened = [stack.enter_context(archive.open(members[spec.name])) for spec in inputs]
            columns = [_column(spec, file) for spec, file in zip(inputs, opened, strict=True)]
            yield from columns_to_rows(columns)
            for spec, file in zip(inputs, opened, strict=True):
                if file.read(1):
                    raise UnreadableBatch(f"column {spec.name!r}: expected no bytes after its last row, got more")
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise UnreadableBatch(f"expected an .npz file, got one that is broken: {error!s:.300}") from error


def _members(archive: zipfile.ZipFile, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist()[: MAX_TENSORS + 1]:
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise UnreadableBatch(f"column {name[:128]!r}: expected it once, got it twice")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or info.flag_bits & 1:
            raise UnreadableBatch(f"column {name[:128]!r}: expected it as np.savez writes it, got another compression")
        found[name] = info
    if sorted(found) != sorted(names):
        raise UnreadableBatch(f"expected the columns {sorted(names)}, got {sorted(found)!s:.300}")
    return found


def _column(spec: TensorSpec, file: IO[bytes]) -> Column:
    try:
        version = npy.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise UnreadableBatch(f"column {spec.name!r}: expected version 1 or 2 of .npy, got {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise UnreadableBatch(f"column {spec.name!r}: expected the head of an .npy file, got {error!s:.200}") from error
    if dtype.hasobject:
        raise UnreadableBatch(f"column {spec.name!r}: expected numbers or fixed strings, got Python objects (a pickle)")
    if fortran and len(shape) > 1:
        raise UnreadableBatch(
            f"column {spec.name!r}: expected rows one after the other, got an array in Fortran's order; "
            "save np.ascontiguousarray of it"
        )
    if not shape:
        raise UnreadableBatch(f"column {spec.name!r}: expected a first axis that counts rows, got a single value")
    one = row_shape(spec, datatype_of(dtype), shape[1:])
    return Column(spec, shape[0], one, _parts(spec, file, shape, dtype))


def _parts(spec: TensorSpec, file: IO[bytes], shape: Sequence[int], dtype: "np.dtype[Any]") -> Iterator[bytes]:
    """The data of each row."""
    size = dtype.itemsize * int(np.prod(shape[1:], dtype=object))
    if size > MAX_ROW_BYTES:
        raise UnreadableBatch(f"column {spec.name!r}: expected rows of at most {MAX_ROW_BYTES} bytes, got {size}")
    at_once = max(1, _PART_BYTES // max(1, size))
    for start in range(0, shape[0], at_once):
        rows = min(at_once, shape[0] - start)
        data = _exactly(file, rows * size)
        if data is None:
            raise UnreadableBatch(f"column {spec.name!r}: expected {shape[0]} rows, got fewer than {start + rows}")
        values = np.frombuffer(data, dtype).reshape(rows, *shape[1:])
        yield from (bytes_of(spec, row) for row in values)


def _exactly(file: IO[bytes], size: int) -> bytes | None:
    pieces, left = [], size
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return None if left else b"".join(pieces)
