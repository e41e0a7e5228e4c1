"""Arrow's IPC file format: rows of a stranger's file, and answers as columns; in a confined child process only.

The library comes with the extra `arrow`. It is made for trusted files: every batch is validated in full before a value
is looked at, and no column is read but those of plain, fixed layouts.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.children.batch_arrays import DTYPES, Column, bytes_of, columns_to_rows, datatype_of, row_shape
from tandem.protocol.errors import UnreadableBatch
from tandem.protocol.rows import Row
from tandem.protocol.tensors import Datatype, TensorSpec

_MAX_BATCH_BYTES = 2**28
"""Of one record batch; what is compressed may be more, and is bounded by the process's memory."""


def can_hold(datatype: Datatype) -> bool:
    return datatype in DTYPES or datatype is Datatype.BYTES


def load_arrow() -> Any:
    """Raises UnreadableBatch where it is not installed."""
    try:
        arrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.ipc")
    except ImportError as error:
        raise UnreadableBatch(
            "expected JSON Lines or .npz: this orchestrator was installed without the extra `arrow`; send one of them"
        ) from error
    arrow.set_cpu_count(1)
    arrow.set_io_thread_count(1)
    return arrow


def arrow_rows(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[Row]:
    """Raises UnreadableBatch."""
    arrow = load_arrow()
    try:
        with arrow.OSFile(str(path)) as file, arrow.ipc.open_file(file) as reader:
            _check_names(reader.schema.names, inputs)
            for spec in inputs:
                _flat(arrow, spec, reader.schema.field(spec.name).type)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield from _batch_rows(arrow, batch, number, inputs)
    except (arrow.ArrowException, OSError) as error:
        raise UnreadableBatch(f"expected an Arrow IPC file, got one that is broken: {error!s:.300}") from error


def _check_names(names: Sequence[str], inputs: Sequence[TensorSpec]) -> None:
    wanted = sorted(spec.name for spec in inputs)
    if sorted(names) != wanted:
        raise UnreadableBatch(f"expected the columns {wanted}, got {sorted(names)!s:.300}")


def _batch_rows(arrow: Any, batch: Any, number: int, inputs: Sequence[TensorSpec]) -> Iterator[Row]:
    batch.validate(full=True)
    if batch.nbytes > _MAX_BATCH_BYTES:
        raise UnreadableBatch(
            f"record batch {number}: expected at most {_MAX_BATCH_BYTES} bytes, got {batch.nbytes}; write smaller ones"
        )
    return columns_to_rows([_column(arrow, spec, batch, number) for spec in inputs])


def _column(arrow: Any, spec: TensorSpec, batch: Any, number: int) -> Column:
    array = batch.column(spec.name)
    shape, _ = _flat(arrow, spec, array.type)
    while True:
        if array.null_count:
            raise UnreadableBatch(f"column {spec.name!r}: expected no nulls, got some in record batch {number}")
        if isinstance(array, arrow.ExtensionArray):
            array = array.storage
        elif arrow.types.is_fixed_size_list(array.type):
            array = array.flatten()
        else:
            break
    one = row_shape(spec, spec.datatype, shape)
    strings = spec.datatype is Datatype.BYTES
    values = np.array(array.to_pylist(), object) if strings else array.to_numpy(zero_copy_only=False)
    rows = values.reshape(batch.num_rows, *shape)
    return Column(spec, batch.num_rows, one, (bytes_of(spec, row) for row in rows))


def _flat(arrow: Any, spec: TensorSpec, kind: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of each value of a column, and the type of its elements. Raises UnreadableBatch."""
    shape: list[int] = []
    given = kind
    if isinstance(kind, arrow.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            raise UnreadableBatch(
                f"column {spec.name!r}: expected tensors without a permutation, got {kind.permutation}"
            )
        return _checked(arrow, spec, tuple(kind.shape), kind.value_type, given)
    while arrow.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return _checked(arrow, spec, tuple(shape), kind, given)


def _checked(
    arrow: Any, spec: TensorSpec, shape: tuple[int, ...], kind: Any, given: Any
) -> tuple[tuple[int, ...], Any]:
    types = arrow.types
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        found: Datatype | None = Datatype.BYTES
    elif types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        found = datatype_of(np.dtype(kind.to_pandas_dtype()))
    else:
        raise UnreadableBatch(
            f"column {spec.name!r}: expected numbers, strings or fixed-size lists of them, got {str(given)[:200]}"
        )
    row_shape(spec, found, shape)
    return shape, kind
