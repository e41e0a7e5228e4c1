"""A shard on a node: what is one row's matter, what is the worker's, and what is run together."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from node.ports.execution import ModelRun
from node.service.batches import ShardRun
from tandem.protocol.errors import ChildCrashed, ExecutionFailed, TandemError, TransferFailed
from tandem.protocol.jobs import BatchFormat, BatchWork
from tandem.protocol.rows import Fault, Row, pack_row, read_rows
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec

FAULTY = pack_row(Row(fault=Fault(code="invalid_tensor", detail="row 2: no")))


def tensor(*values: int) -> Tensor:
    return Tensor("x", Datatype.UINT8, (len(values),), bytes(values))


class Model:
    """Gives what it is given. Fails on rows for which `errors` has something left."""

    def __init__(self, errors: dict[int, list[TandemError]] | None = None) -> None:
        self.errors = errors or {}
        self.runs: list[bytes] = []
        self.answer: Callable[[Tensor], Tensor] = lambda given: given

    async def __call__(self, inputs: Sequence[Tensor]) -> ModelRun:
        data = bytes(inputs[0].data)
        self.runs.append(data)
        for value in data:
            if self.errors.get(value):
                raise self.errors[value].pop()
        return ModelRun((self.answer(inputs[0]),), "CPUExecutionProvider", 1, warm=True)


class Shard:
    def __init__(
        self, folder: Path, model: Model, *, max_batch: int = 1, kind: BatchFormat = BatchFormat.JSONL
    ) -> None:
        rows = [pack_row(Row((tensor(n),))) for n in range(6)]
        data = b"".join([*rows[:1], FAULTY, *rows[1:]])
        (folder / "source").write_bytes(b"before" + data + b"after")
        self.folder = folder
        self.said: list[int] = []
        self.work = BatchWork(
            model="sha256:" + "0" * 64,
            model_size=1,
            source="sha256:" + "1" * 64,
            source_size=len(data) + 11,
            span=(6, len(data) + 6),
            rows=6,
            format=kind,
            outputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1,)),),
            max_batch=max_batch,
            cost_us=6,
        )
        self.run = ShardRun(self.work, model, lambda permille, _: self.said.append(permille))

    async def perform(self) -> list[Row]:
        target = self.folder / "answers"
        await self.run.perform(self.folder / "source", target)
        with target.open("rb") as file:
            return list(read_rows(file, target.stat().st_size))


async def test_each_row_of_the_span_is_answered_in_order(tmp_path: Path) -> None:
    shard = Shard(tmp_path, Model())
    assert [row.tensors[0].data for row in await shard.perform()] == [bytes([n]) for n in range(6)]
    assert (shard.run.failed, shard.run.provider) == ([], "CPUExecutionProvider")
    assert shard.said == sorted(shard.said)
    assert shard.said[-1] == 1000


async def test_rows_that_are_alike_run_together(tmp_path: Path) -> None:
    model = Model()
    assert len(await Shard(tmp_path, model, max_batch=4).perform()) == 6
    assert model.runs == [bytes([0, 1, 2, 3]), bytes([4, 5])]


async def test_a_model_that_mixes_rows_runs_them_alone_from_then_on(tmp_path: Path) -> None:
    model = Model()
    model.answer = lambda given: tensor(sum(given.data))
    rows = await Shard(tmp_path, model, max_batch=3).perform()
    assert [row.tensors[0].data[0] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [len(run) for run in model.runs] == [3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("max_batch", [1, 4])
async def test_a_row_that_the_model_fails_on_takes_no_other_along(tmp_path: Path, max_batch: int) -> None:
    model = Model({2: [ExecutionFailed("index out of bounds") for _ in range(2)]})
    shard = Shard(tmp_path, model, max_batch=max_batch)
    rows = await shard.perform()
    failed = [place for place, row in enumerate(rows) if row.fault is not None]
    assert failed == shard.run.failed == [2]
    assert rows[2].fault == Fault(code="execution_failed", detail="index out of bounds")


async def test_where_the_format_cannot_say_so_the_shard_fails(tmp_path: Path) -> None:
    shard = Shard(tmp_path, Model({2: [ExecutionFailed("no")]}), kind=BatchFormat.NPZ)
    with pytest.raises(ExecutionFailed):
        await shard.perform()


async def test_a_worker_that_dies_is_no_fault_of_the_row_unless_it_dies_again(tmp_path: Path) -> None:
    crash = ChildCrashed("SIGKILL")
    shard = Shard(tmp_path, Model({1: [crash], 4: [crash, crash]}))
    rows = await shard.perform()
    assert shard.run.failed == [4]
    assert rows[1].fault is None


async def test_rows_that_are_cut_short_are_fetched_again(tmp_path: Path) -> None:
    shard = Shard(tmp_path, Model())
    data = (tmp_path / "source").read_bytes()
    (tmp_path / "source").write_bytes(data[: len(data) // 2])
    with pytest.raises(TransferFailed):
        await shard.perform()
