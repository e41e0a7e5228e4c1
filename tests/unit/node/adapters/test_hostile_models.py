"""Models that mean harm: each fails by name, within bounds, and another model's requests go on meanwhile."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from node.adapters.inference import WorkerInference
from node.adapters.workers import InferenceSettings
from node.ports.execution import ModelFiles, ModelRun
from tandem.clock import SystemClock
from tandem.process import detect_sandbox
from tandem.process.tree import descendants
from tandem.protocol.errors import (
    AttemptTimeout,
    ChildCrashed,
    ExecutionFailed,
    InvalidModel,
    NoCapacity,
    TandemError,
    Unavailable,
)
from tandem.protocol.models import ModelSettings, WarmUpTensor
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures import onnx_models
from tests.fixtures.onnx_models import files, put

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWO_WORKERS = InferenceSettings(workers=2, slots=2, cache_mib=512, memory_mib=1024, run_seconds=1.0, grace_seconds=0.2)
X = Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 1.0))
IMAGE = Tensor("image", Datatype.FP32, (1, 64), struct.pack("<64f", *[1.0] * 64))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inference(models: Path) -> AsyncIterator[WorkerInference]:
    async with WorkerInference(models, TWO_WORKERS, sandbox=await detect_sandbox(), clock=SystemClock()) as inference:
        await inference.start()
        yield inference


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def digits(inference: WorkerInference, models: Path) -> ModelFiles:
    """A harmless model, warm in one worker at least."""
    model = files(put(models, onnx_models.DIGITS.read_bytes()))
    await inference.run(model, [IMAGE])
    return model


@asynccontextmanager
async def going_on(inference: WorkerInference, model: ModelFiles) -> AsyncIterator[list[ModelRun]]:
    """Runs the model again and again while the block lasts; not one of the runs may fail."""
    runs: list[ModelRun] = []

    async def keep_running() -> None:
        while True:
            runs.append(await inference.run(model, [IMAGE]))

    async with asyncio.TaskGroup() as group:
        running = group.create_task(keep_running())
        yield runs
        count = len(runs)
        while len(runs) < count + 3:  # noqa: ASYNC110 - and still goes on afterwards
            await asyncio.sleep(0)
        running.cancel()


def zeros(*sizes: int) -> Tensor:
    return Tensor("shape", Datatype.INT64, (len(sizes),), struct.pack(f"<{len(sizes)}q", *sizes))


def endless(_: Path) -> tuple[bytes, Tensor]:
    return onnx_models.endless(), X


def terabytes(_: Path) -> tuple[bytes, Tensor]:
    return onnx_models.as_many_zeros_as_asked(), zeros(2**19, 2**19)


def more_than_there_is(_: Path) -> tuple[bytes, Tensor]:
    return onnx_models.as_many_zeros_as_asked(), zeros(2**20, 300)


def ten_thousand_outputs(_: Path) -> tuple[bytes, Tensor]:
    return onnx_models.as_many_outputs(10_000), X


def growing(_: Path) -> tuple[bytes, Tensor]:
    return onnx_models.growing(), X


def sly(_: Path) -> tuple[bytes, Tensor]:
    """Passed its check on zeros; the node is not to be blamed for what it gives now."""
    return onnx_models.where_not_zero(), X


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (sly, ExecutionFailed),
        (endless, AttemptTimeout),
        (terabytes, ExecutionFailed),
        (more_than_there_is, (ExecutionFailed, NoCapacity)),
        (ten_thousand_outputs, InvalidModel),
        (growing, (ExecutionFailed, NoCapacity, AttemptTimeout, ChildCrashed)),
    ],
)
async def test_it_fails_by_name_and_others_go_on(
    inference: WorkerInference,
    models: Path,
    digits: ModelFiles,
    make: Callable[[Path], tuple[bytes, Tensor]],
    expected: type[TandemError] | tuple[type[TandemError], ...],
) -> None:
    data, tensor = make(models)
    async with asyncio.timeout(10), going_on(inference, digits) as runs:
        with pytest.raises(expected):
            await inference.run(files(put(models, data)), [tensor])
    assert runs


@pytest.mark.parametrize("location", ["../../../../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "missing.bin"])
async def test_external_data_elsewhere_are_refused(inference: WorkerInference, models: Path, location: str) -> None:
    with pytest.raises(InvalidModel, match="external data"):
        await inference.run(files(put(models, onnx_models.external(location, offset="0", length="4"))), [X])


async def test_external_data_of_its_own_are_read(inference: WorkerInference, models: Path) -> None:
    weights = put(models, struct.pack("<2f", 9.0, 41.0))
    model = put(models, onnx_models.external("data/weights.bin", offset="4", length="4"))
    found = await inference.run(ModelFiles("sha256:" + "1" * 64, model, {"data/weights.bin": weights}), [X])
    assert struct.unpack("<f", found.outputs[0].data) == (42.0,)


@pytest.mark.parametrize("link", [os.link, os.symlink])
async def test_links_are_no_external_data(
    inference: WorkerInference, models: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4))
    name = models / (link.__name__[0] * 64).replace("l", "a").replace("s", "b")
    link(secret, name)
    model = put(models, onnx_models.external("w", offset="0", length="4", checksum=link.__name__))
    with pytest.raises(Unavailable, match="in the cache"):
        await inference.run(ModelFiles("sha256:" + name.name, model, {"w": name}), [X])


async def test_a_crash_takes_one_worker_and_what_it_ran(models: Path, digits: ModelFiles) -> None:
    """SIGSEGV on cue stands for a model that crashes its process."""
    endless_model = files(put(models, onnx_models.endless() + b"\xba\x3e\x01!"))
    settings = replace(TWO_WORKERS, run_seconds=60)
    async with WorkerInference(models, settings, sandbox=await detect_sandbox(), clock=SystemClock()) as inference:
        for model in (digits, endless_model):
            await inference.load(model, ModelSettings())
        seat = next(seat for seat in inference.workers.seats if _holds(inference, endless_model, seat))
        assert not _holds(inference, digits, seat)
        outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        inference.submit(endless_model.digest, [X], [], outcome.set_result)
        while not seat.busy:  # noqa: ASYNC110 - no event for tests
            await asyncio.sleep(0)
        assert seat.worker is not None
        assert seat.worker.pid is not None
        os.kill([seat.worker.pid, *descendants(seat.worker.pid)][-1], signal.SIGSEGV)
        assert isinstance(await outcome, ChildCrashed)
        assert (await inference.run(digits, [IMAGE])).outputs
        assert endless_model.digest in {warm.digest for warm in inference.warm()}


def _holds(inference: WorkerInference, model: ModelFiles, seat: object) -> bool:
    return seat in inference._served[model.digest].seats


async def test_a_model_that_ends_worker_after_worker_is_dropped(models: Path) -> None:
    model = files(put(models, onnx_models.endless()))
    settings = replace(TWO_WORKERS, workers=1, run_seconds=60)
    changes: list[int] = []
    async with WorkerInference(models, settings, sandbox=await detect_sandbox(), clock=SystemClock()) as inference:
        await inference.load(model, ModelSettings())
        inference.listen(lambda: changes.append(len(inference.warm())))
        seat = inference.workers.seats[0]
        for _ in range(3):
            outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            inference.submit(model.digest, [X], [], outcome.set_result)
            while not seat.busy:  # noqa: ASYNC110 - no event for tests
                await asyncio.sleep(0.001)
            worker = seat.worker
            assert worker is not None
            worker.kill()
            assert isinstance(await outcome, ChildCrashed)
            await worker.ended.wait()
            await asyncio.sleep(0)
        while inference.warm():  # noqa: ASYNC110 - no event for tests
            await asyncio.sleep(0)
    assert changes == [0]


async def test_warm_up_inputs_are_run_at_the_load(inference: WorkerInference, models: Path) -> None:
    model = files(put(models, onnx_models.as_many_zeros_as_asked() + b"\xba\x3e\x01!"))
    fine = ModelSettings(warm_up=((WarmUpTensor(name="shape", shape=(1,), data=(4,)),),))
    assert (await inference.load(model, fine)).memory > 0
    await inference.unload(model.digest)
    for wrong in (WarmUpTensor(name="other", shape=(1,)), WarmUpTensor(name="shape", shape=(2,), data=(2**40, 2**40))):
        with pytest.raises((InvalidModel, ExecutionFailed), match="warm-up"):
            await inference.load(model, ModelSettings(warm_up=((wrong,),)))
    assert model.digest not in {warm.digest for warm in inference.warm()}
