"""Files of inputs and of answers, well made and hostile. The child's functions are called directly, in no process."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.children import batch
from orchestrator.children.batch_outputs import write_answers
from orchestrator.core.sharding import MAX_BLOCKS, BatchFacts, shards
from orchestrator.ports.batches import Reading, Writing
from tandem.inspection.answer import reply
from tandem.protocol.errors import ResultRejected, UnreadableBatch
from tandem.protocol.jobs import BatchFormat
from tandem.protocol.rows import Row, pack_row, read_rows
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec

SPECS = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),)
VALUES = np.arange(30, dtype=np.float32).reshape(10, 3)


def line(data: object = (1, 2, 3), **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": data}
    return json.dumps({"inputs": [tensor]} | more).encode() + b"\n"


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def arrow(column: Any = None, name: str = "x", rows: int = 4, **options: Any) -> bytes:
    column = pa.FixedSizeListArray.from_arrays(pa.array(VALUES.reshape(-1)), 3) if column is None else column
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([(name, column.type)]), **options) as writer:
        for start in range(0, len(column), rows):
            writer.write_batch(pa.record_batch([column[start : start + rows]], names=[name]))
    return bytes(sink.getvalue())


def read(folder: Path, content: bytes, specs: tuple[TensorSpec, ...] = SPECS, **more: Any) -> BatchFacts:
    (folder / "given").write_bytes(content)
    return batch.read(Reading(path=folder / "given", inputs=specs, target=folder / "rows", **more))


def rows_of(path: Path) -> list[Row]:
    with path.open("rb") as file:
        return list(read_rows(file, path.stat().st_size))


def echoed(folder: Path, found: BatchFacts, lanes: int = 2) -> bytes:
    """What comes back if each shard is answered with its own inputs."""
    paths = []
    data = (folder / "rows").read_bytes()
    for number, shard in enumerate(shards(found.blocks, 400_000, lanes)):
        paths.append(folder / f"shard{number}")
        (folder / "part").write_bytes(data[shard.start : shard.end])
        answers = [row for row in rows_of(folder / "part") if row.fault is None]
        assert len(answers) == shard.rows
        paths[-1].write_bytes(b"".join(pack_row(Row(row.tensors)) for row in answers))
    assert len(paths) > 1
    target = folder / "answers"
    order = Writing(
        model="m", version="1", source=folder / "rows", shards=tuple(paths), outputs=SPECS, format=found.format,
        target=target,
    )  # fmt: skip
    written = write_answers(order)
    assert (written.rows, written.failed) == (found.rows + found.faulty, found.faulty)
    return target.read_bytes()


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    found = read(tmp_path, npz(x=VALUES))
    assert (found.format, found.rows, found.units) == (BatchFormat.NPZ, 10, 10)
    back = np.load(io.BytesIO(echoed(tmp_path, found)))
    np.testing.assert_array_equal(back["x"], VALUES)


def test_columns_come_back_as_they_went(tmp_path: Path) -> None:
    found = read(tmp_path, arrow())
    assert (found.format, found.rows) == (BatchFormat.ARROW, 10)
    table = pa.ipc.open_file(echoed(tmp_path, found)).read_all()
    assert table.column("x").to_pylist() == VALUES.tolist()


def test_a_bad_line_is_its_own_matter(tmp_path: Path) -> None:
    lines = [line([n, 0, 0], id=f"row {n}") for n in range(8)]
    lines[2] = line([1, 2], id="short")
    lines[5] = b'{"inputs": [' + b"[" * 5000 + b"\n"
    lines.insert(4, b"\n")  # says nothing
    found = read(tmp_path, b"\xef\xbb\xbf" + b"".join(lines))
    assert (found.format, found.rows, found.faulty) == (BatchFormat.JSONL, 6, 2)
    answers = [json.loads(each) for each in echoed(tmp_path, found).splitlines()]
    assert [each.get("id") for each in answers[:5]] == ["row 0", "row 1", "short", "row 3", "row 4"]
    assert answers[0]["outputs"][0]["data"] == [0, 0, 0]
    assert answers[2]["error"]["code"] == "invalid_tensor"
    assert "row 3: tensor 'x': expected" in answers[2]["error"]["detail"]
    assert "error" in answers[5]
    assert answers[7]["outputs"][0]["data"] == [7, 0, 0]


def test_many_rows_are_counted_in_blocks(tmp_path: Path) -> None:
    many = np.zeros((3 * MAX_BLOCKS, 3), np.float32)
    found = read(tmp_path, npz(x=many))
    assert found.rows == len(many)
    assert found.size == (tmp_path / "rows").stat().st_size
    assert len(found.blocks) <= MAX_BLOCKS


def bomb() -> bytes:
    """A gigabyte of zeros in some 10 kB, twice compressed by its own sparseness."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_2_0(member, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)})
        member.write(bytes(12_000))
    return file.getvalue()


def shortened(content: bytes) -> bytes:
    return content[: len(content) // 2]


OBJECTS = np.array([[1, "a", None]], object)
HOSTILE: list[tuple[bytes, str]] = [
    (b"\x80\x04K\x01.", "expected JSON Lines, an .npz or an Arrow IPC file"),
    (b"\xff\xff\xff\xff\xa8\0\0\0", "got a stream of Arrow; write it by pyarrow.ipc.new_file"),
    (pickle.dumps(VALUES), "expected JSON Lines"),
    (npz(x=OBJECTS), "(a pickle)"),
    (npz(x=VALUES, y=VALUES), "expected the columns ['x'], got ['x', 'y']"),
    (npz(x=VALUES[:, :2]), "column 'x': expected rows of shape [-1, 3] (-1 is any), got [2]"),
    (npz(x=VALUES.astype(np.float64)), "column 'x': expected FP32, got FP64"),
    (npz(x=np.asfortranarray(VALUES)), "Fortran"),
    (npz(x=np.float32(1)), "got a single value"),
    (npz(x=VALUES[:0]), "there is no row"),
    (shortened(npz(x=VALUES)), "expected an .npz file, got one that is broken"),
    (bomb(), "column 'x': expected 1099511627776 rows, got fewer than"),
    (arrow(pa.array(VALUES[:, 0])), "column 'x': expected rows of shape [-1, 3] (-1 is any), got []"),
    (arrow(pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))), "expected numbers, strings or fixed-size lists"),
    (arrow(pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32(), 3))), "expected no nulls"),
    (arrow(name="y"), "expected the columns ['x'], got ['y']"),
    (shortened(arrow()), "expected an Arrow IPC file, got one that is broken"),
    (line([1, 2]) * 2, "expected at least one row that the model takes; row 1: tensor 'x': expected"),
]


@pytest.mark.parametrize(("content", "expected"), HOSTILE, ids=[expected[-30:] for _, expected in HOSTILE])
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(UnreadableBatch) as refused:
        read(tmp_path, content)
    assert expected in refused.value.detail


def test_flipped_bits_of_an_arrow_file_never_get_through_unseen(tmp_path: Path) -> None:
    strings = pa.array(["some", "strings", "of", "text"])
    content = arrow(strings)
    specs = (TensorSpec(name="x", datatype=Datatype.BYTES, shape=(-1,)),)
    assert read(tmp_path, content, specs).rows == 4
    refusals = 0
    for place in range(8, len(content) - 10, 7):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        order = _order(tmp_path, bytes(flipped), specs)
        refusals += "refused" in reply(batch.perform, order.model_dump_json())
    assert refusals


def _order(folder: Path, content: bytes, specs: tuple[TensorSpec, ...]) -> Reading:
    (folder / "flipped").write_bytes(content)
    return Reading(path=folder / "flipped", inputs=specs, format=BatchFormat.ARROW)


def answers(*tensors: Tensor) -> bytes:
    return b"".join(pack_row(Row((tensor,))) for tensor in tensors)


def test_answers_of_several_shapes_fit_no_array(tmp_path: Path) -> None:
    read(tmp_path, npz(x=VALUES[:2]))
    short = Tensor("x", Datatype.FP32, (1, 3), bytes(12))
    long = Tensor("x", Datatype.FP32, (2, 3), bytes(24))
    (tmp_path / "shard").write_bytes(answers(short, long))
    order = Writing(
        model="m", version="1", source=tmp_path / "rows", shards=(tmp_path / "shard",), outputs=SPECS,
        format=BatchFormat.NPZ, target=tmp_path / "answers",
    )  # fmt: skip
    with pytest.raises(ResultRejected, match=r"row 2: expected 'x' of shape \[1, 3\] as in row 1, got \[2, 3\]"):
        write_answers(order)
    (tmp_path / "shard").write_bytes(answers(short))
    with pytest.raises(ResultRejected, match="row 2: expected an answer"):
        write_answers(order)


def test_a_file_expands_to_so_much_and_no_more() -> None:
    tally = batch._Tally(1000)
    tally.add(900, 1, faulty=False)
    with pytest.raises(UnreadableBatch, match="1000 bytes of tensors, got 2, 0 and 1100"):
        tally.add(200, 1, faulty=False)
