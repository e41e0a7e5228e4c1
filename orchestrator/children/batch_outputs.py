"""The answers of shards as one file of the submitter's format; in a confined child process only."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, assert_never

import numpy as np
from numpy.lib import format as npy

from orchestrator.children.batch_arrays import DTYPES
from orchestrator.children.batch_arrow import load_arrow
from orchestrator.ports.batches import Writing, Written
from tandem.protocol.api import BatchLine
from tandem.protocol.errors import ResultRejected
from tandem.protocol.jobs import BatchFormat
from tandem.protocol.rows import Row, RowHead, read_heads, read_rows
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec, split_bytes, tensor_to_json

_PART_BYTES = 2**24
"""Of a record batch."""


def write_answers(order: Writing) -> Written:
    """Raises ResultRejected for answers that are not as many as were asked for, or that the format cannot hold."""
    match order.format:
        case BatchFormat.JSONL:
            return _write_lines(order)
        case BatchFormat.NPZ:
            return _write_arrays(order)
        case BatchFormat.ARROW:
            return _write_arrow(order)
    assert_never(order.format)


def _answers(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        with path.open("rb") as file:
            yield from read_rows(file, path.stat().st_size)


def _asked(order: Writing) -> Iterator[RowHead]:
    with order.source.open("rb") as file:
        yield from read_heads(file, order.source.stat().st_size)


def _paired(order: Writing) -> Iterator[tuple[RowHead, Row]]:
    """What was asked with its answer; of what was not run, its fault."""
    answers, number = _answers(order.shards), 0
    for number, head in enumerate(_asked(order), 1):
        row = Row(fault=head.fault) if head.fault is not None else next(answers, None)
        if row is None:
            raise ResultRejected(f"row {number}: expected an answer, got the end of the last shard")
        yield head, row
    if next(answers, None) is not None:
        raise ResultRejected(f"expected answers to {number} rows, got more")


def _write_lines(order: Writing) -> Written:
    rows = failed = 0
    with order.target.open("wb") as out:
        for head, row in _paired(order):
            rows += 1
            failed += row.fault is not None
            out.write(_line(order, head.id, row).encode() + b"\n")
    return Written(rows=rows, failed=failed)


def _line(order: Writing, name: str | None, row: Row) -> str:
    line = BatchLine(
        id=name,
        model_name=order.model,
        model_version=order.version,
        outputs=None if row.fault else tuple(tensor_to_json(each) for each in row.tensors),
        error=row.fault,
    )
    return line.model_dump_json(exclude_none=True)


def _tensors(order: Writing, index: int) -> Iterator[Tensor]:
    """One output of all rows, which must be alike."""
    shape: tuple[int, ...] | None = None
    name = order.outputs[index].name
    for number, (_, row) in enumerate(_paired(order), 1):
        if row.fault is not None:
            raise ResultRejected(f"row {number}: expected an answer, got {row.fault.detail}")
        tensor = row.tensors[index]
        shape = tensor.shape if shape is None else shape
        if tensor.shape != shape:
            raise ResultRejected(
                f"row {number}: expected {name!r} of shape {list(shape)} as in row 1, got {list(tensor.shape)}; "
                "where shapes vary, JSON Lines can hold them"
            )
        yield tensor


def _inner(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a row without the axis that counted rows for the model."""
    return shape[1:] if shape[:1] == (1,) and spec.shape[:1] in {(-1,), (1,)} else shape


def _write_arrays(order: Writing) -> Written:
    rows = sum(1 for _ in _asked(order))
    with zipfile.ZipFile(order.target, "w", zipfile.ZIP_STORED) as archive:
        for index, spec in enumerate(order.outputs):
            with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as out:
                _write_array(out, spec, rows, _tensors(order, index))
    return Written(rows=rows, failed=0)


def _write_array(out: IO[bytes], spec: TensorSpec, rows: int, tensors: Iterator[Tensor]) -> None:
    for number, tensor in enumerate(tensors):
        if not number:
            shape = (rows, *_inner(spec, tensor.shape))
            head: dict[str, Any] = {"descr": DTYPES[spec.datatype].str, "fortran_order": False, "shape": shape}
            npy.write_array_header_2_0(out, head)
        out.write(tensor.data)


def _write_arrow(order: Writing) -> Written:
    arrow, rows, schema = load_arrow(), 0, None
    columns = [_tensors(order, index) for index in range(len(order.outputs))]
    with closing(arrow.OSFile(str(order.target), "wb")) as sink:
        writer = None
        for part in _parts(zip(*columns, strict=True)):
            arrays = [_array(arrow, spec, [row[index] for row in part]) for index, spec in enumerate(order.outputs)]
            if writer is None:
                fields = [(spec.name, array.type) for spec, array in zip(order.outputs, arrays, strict=True)]
                schema = arrow.schema(fields)
                writer = arrow.ipc.new_file(sink, schema)
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            rows += len(part)
        if writer is not None:
            writer.close()
    return Written(rows=rows, failed=0)


def _parts(rows: Iterator[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    part: list[tuple[Tensor, ...]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(len(tensor.data) for tensor in row) + 1
        if size >= _PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _array(arrow: Any, spec: TensorSpec, tensors: Sequence[Tensor]) -> Any:
    if spec.datatype is Datatype.BYTES:
        array = arrow.array([item for tensor in tensors for item in split_bytes(tensor)], arrow.binary())
    else:
        values = np.frombuffer(b"".join(tensor.data for tensor in tensors), DTYPES[spec.datatype])
        array = arrow.array(values)
    for size in reversed(_inner(spec, tensors[0].shape)):
        array = arrow.FixedSizeListArray.from_arrays(array, size)
    return array
