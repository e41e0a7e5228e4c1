"""Requests that are run together, by the real ONNX Runtime."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from node.adapters.inference import WorkerInference
from node.adapters.workers import InferenceSettings
from node.ports.execution import ModelFiles, ModelRun
from tandem.clock import SystemClock
from tandem.process import detect_sandbox
from tandem.protocol.errors import ExecutionFailed, InvalidTensor, TandemError
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures import onnx_models
from tests.fixtures.onnx_models import files, put

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOGETHER = ModelSettings(max_batch=8, batch_window_us=200_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inference(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerInference]:
    settings = InferenceSettings(slots=1, cache_mib=256, run_seconds=30)
    folder = tmp_path_factory.mktemp("models")
    async with WorkerInference(folder, settings, sandbox=await detect_sandbox(), clock=SystemClock()) as inference:
        await inference.start()
        yield inference


@pytest_asyncio.fixture(loop_scope="module")
async def rows(inference: WorkerInference) -> ModelFiles:
    model = files(put(inference._models, onnx_models.rows()))
    await inference.load(model, TOGETHER)
    return model


def request(*rows: tuple[float, ...], pick: int = 0, width: int = 2) -> list[Tensor]:
    numbers = [number for row in rows for number in row]
    return [
        Tensor("x", Datatype.FP32, (len(rows), width), struct.pack(f"<{len(numbers)}f", *numbers)),
        Tensor("pick", Datatype.INT64, (len(rows),), struct.pack(f"<{len(rows)}q", *[pick] * len(rows))),
    ]


async def together(
    inference: WorkerInference, model: ModelFiles, requests: list[list[Tensor]], cancelled: tuple[int, ...] = ()
) -> list[ModelRun | TandemError | None]:
    """Hands all in at once. The answers in their order; None for those that are cancelled at once."""
    loop = asyncio.get_running_loop()
    waiting = [loop.create_future() for _ in requests]
    running = [
        inference.submit(model.digest, inputs, [], future.set_result)
        for inputs, future in zip(requests, waiting, strict=True)
    ]
    for number in cancelled:
        running[number].cancel()
    return [None if number in cancelled else await future for number, future in enumerate(waiting)]


def sums(run: object) -> list[float]:
    assert isinstance(run, ModelRun), run
    data = run.outputs[0].data
    return list(struct.unpack(f"<{len(data) // 4}f", data))


async def test_each_gets_the_rows_of_its_own(inference: WorkerInference, rows: ModelFiles) -> None:
    found = await together(inference, rows, [request((1, 2)), request((3, 4), (5, 6)), request((7, 8), pick=3)])
    assert [sums(run) for run in found] == [[3.0], [7.0, 11.0], [15.0]]
    for run, count in zip(found, (1, 2, 1), strict=True):
        assert isinstance(run, ModelRun)
        assert run.batch == 3
        assert [output.shape for output in run.outputs] == [(count,), (count, 2), (count,)]
    assert inference.meters()[rows.digest].batches.counts[2] == 1


async def test_one_that_is_alone_waits_no_longer_than_the_window(inference: WorkerInference, rows: ModelFiles) -> None:
    run = (await together(inference, rows, [request((1, 2))]))[0]
    assert isinstance(run, ModelRun)
    assert (run.batch, run.queue_us >= 190_000) == (1, True)


async def test_a_full_batch_does_not_wait(inference: WorkerInference, rows: ModelFiles) -> None:
    found = await together(inference, rows, [request((number, 0)) for number in range(20)])
    assert [sums(run) for run in found] == [[float(number)] for number in range(20)]
    assert sorted(run.batch for run in found if isinstance(run, ModelRun)) == [4] * 4 + [8] * 16


async def test_one_that_fails_does_not_fail_the_others(inference: WorkerInference, rows: ModelFiles) -> None:
    found = await together(inference, rows, [request((1, 2)), request((3, 4), pick=9), request((5, 6))])
    assert (sums(found[0]), sums(found[2])) == ([3.0], [11.0])
    assert isinstance(found[1], (ExecutionFailed, InvalidTensor))


async def test_one_that_is_cancelled_leaves(inference: WorkerInference, rows: ModelFiles) -> None:
    found = await together(inference, rows, [request((1, 2)), request((3, 4)), request((5, 6))], cancelled=(1,))
    assert (sums(found[0]), sums(found[2])) == ([3.0], [11.0])
    assert isinstance(found[0], ModelRun)
    assert found[0].batch == 2


async def test_others_shapes_are_run_apart_and_nothing_is_padded(inference: WorkerInference, rows: ModelFiles) -> None:
    found = await together(inference, rows, [request((1, 2)), request((1, 2, 3), width=3), request((5, 6))])
    assert [sums(run) for run in found] == [[3.0], [6.0], [11.0]]
    assert [run.batch for run in found if isinstance(run, ModelRun)] == [1, 1, 1]


async def test_a_model_whose_rows_cannot_be_told_apart_is_run_singly(inference: WorkerInference) -> None:
    model = files(put(inference._models, onnx_models.distinct()))
    assert (await inference.load(model, TOGETHER)).batchable
    one = [Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 2.0))]
    found = await together(inference, model, [one, one, one])
    assert [sums(run) for run in found] == [[2.0]] * 3


async def test_models_of_closed_shapes_are_not_batched(inference: WorkerInference) -> None:
    model = files(put(inference._models, onnx_models.endless() + b"\xba\x3e\x01!"))
    assert not (await inference.load(model, TOGETHER)).batchable


async def test_other_settings_take_effect(inference: WorkerInference, rows: ModelFiles) -> None:
    await inference.load(rows, ModelSettings())
    found = await together(inference, rows, [request((1, 2)), request((3, 4))])
    assert [run.batch for run in found if isinstance(run, ModelRun)] == [1, 1]
