"""The inference worker, with the real ONNX Runtime in a real child process."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from node.adapters.inference import WorkerInference, installed_package
from node.adapters.worker import Worker
from node.adapters.workers import InferenceSettings
from tandem.clock import SystemClock
from tandem.process import detect_sandbox
from tandem.process.tree import descendants
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import (
    AttemptTimeout,
    ChildCrashed,
    ExecutionFailed,
    InvalidModel,
    InvalidTensor,
    TandemError,
    TooLarge,
    Unavailable,
)
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Datatype, Tensor, join_bytes
from tests.fixtures import onnx_models
from tests.fixtures.onnx_models import files, put

pytestmark = pytest.mark.asyncio(loop_scope="module")

CPU = "CPUExecutionProvider"
QUICK = InferenceSettings(slots=2, cache_mib=256, run_seconds=30)


def floats(name: str, values: Sequence[float], shape: Sequence[int] | None = None) -> Tensor:
    data = struct.pack(f"<{len(values)}f", *values)
    return Tensor(name=name, datatype=Datatype.FP32, shape=tuple(shape or [len(values)]), data=data)


X = floats("x", [1.0])
IMAGE = floats("image", [0.0, 0.0, 5.0, 13.0] * 16, [1, 64])


async def inference_in(folder: Path, settings: InferenceSettings = QUICK) -> WorkerInference:
    return WorkerInference(folder, settings, sandbox=await detect_sandbox(), clock=SystemClock())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def digits(models: Path) -> Path:
    return put(models, onnx_models.DIGITS.read_bytes())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inference(models: Path) -> AsyncIterator[WorkerInference]:
    """One worker for all tests that leave it standing."""
    async with await inference_in(models) as inference:
        await inference.start()
        yield inference


def worker_of(inference: WorkerInference, seat: int = 0) -> Worker:
    worker = inference.workers.seats[seat].worker
    assert worker is not None
    return worker


def pid_of(inference: WorkerInference) -> int:
    """Of the process that runs the models, inside the sandbox if there is one."""
    worker = worker_of(inference)
    assert worker.pid is not None
    return [worker.pid, *descendants(worker.pid)][-1]


async def test_a_model_runs_and_stays_warm(inference: WorkerInference, models: Path) -> None:
    model = put(models, onnx_models.DIGITS.read_bytes() + b"\xba\x3e\x01!")  # an unknown field: another digest
    first = await inference.run(files(model), [IMAGE])
    second = await inference.run(files(model), [IMAGE])
    assert (first.warm, second.warm) == (False, True)
    assert first.provider == CPU
    assert [(output.name, output.datatype, output.shape) for output in first.outputs] == [
        ("label", Datatype.INT64, (1,)),
        ("probabilities", Datatype.FP32, (1, 10)),
    ]
    assert first.outputs == second.outputs
    assert sum(struct.unpack("<10f", first.outputs[1].data)) == pytest.approx(1, abs=1e-5)


async def test_only_the_outputs_that_are_named_come(inference: WorkerInference, digits: Path) -> None:
    run = await inference.run(files(digits), [IMAGE], ["probabilities"])
    assert ([output.name for output in run.outputs], run.provider) == (["probabilities"], CPU)
    with pytest.raises(InvalidModel, match="confidence"):
        await inference.run(files(digits), [IMAGE], ["confidence"])


async def test_strings_flags_halves_and_empty_tensors_come_back_as_they_went(
    inference: WorkerInference, models: Path
) -> None:
    model = put(models, onnx_models.echo())
    for texts, flags, halves in [(["", "Grüße", "猫"], [True, False, True], [0.5, -2.0, 8.0]), ([], [], [])]:
        inputs = [
            Tensor(name="text", datatype=Datatype.BYTES, shape=(len(texts),), data=join_bytes(map(str.encode, texts))),
            Tensor(name="flag", datatype=Datatype.BOOL, shape=(len(flags),), data=bytes(flags)),
            Tensor(
                name="half", datatype=Datatype.FP16, shape=(len(halves),), data=struct.pack(f"<{len(halves)}e", *halves)
            ),
        ]
        outputs = (await inference.run(files(model), inputs)).outputs
        assert [(each.shape, each.data) for each in outputs] == [(each.shape, each.data) for each in inputs]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], "expected the tensors"),
        ([floats("picture", [0.0] * 64, [1, 64])], "expected the tensors"),
        ([IMAGE, IMAGE], "each once"),
        ([floats("image", [0.0] * 63, [1, 63])], "63"),
        ([floats("image", [0.0] * 64)], "rank"),
        ([Tensor(name="image", datatype=Datatype.FP64, shape=(1, 64), data=bytes(512))], "datatype"),
        ([Tensor(name="image", datatype=Datatype.FP32, shape=(1, 64), data=bytes(255))], "expected 256 bytes"),
    ],
)
async def test_wrong_tensors_are_named(
    inference: WorkerInference, digits: Path, inputs: list[Tensor], expected: str
) -> None:
    with pytest.raises(InvalidTensor, match=expected):
        await inference.run(files(digits), inputs)


async def test_text_that_is_not_utf8_is_refused(inference: WorkerInference, models: Path) -> None:
    inputs = [
        Tensor(name="text", datatype=Datatype.BYTES, shape=(1,), data=join_bytes([b"\xff"])),
        Tensor(name="flag", datatype=Datatype.BOOL, shape=(0,), data=b""),
        Tensor(name="half", datatype=Datatype.FP16, shape=(0,), data=b""),
    ]
    with pytest.raises(InvalidTensor, match="UTF-8"):
        await inference.run(files(put(models, onnx_models.echo())), inputs)


@pytest.mark.parametrize(
    "data",
    [
        onnx_models.external("weights.bin"),
        onnx_models.custom_operator(),
        onnx_models.custom_operator("ai.onnx.ml", "NoSuchOperator"),
        onnx_models.sequence_output(),
        b"not a model",
    ],
    ids=["external data", "custom operator", "unknown operator", "sequence", "garbage"],
)
async def test_models_that_cannot_be_served_are_refused(inference: WorkerInference, models: Path, data: bytes) -> None:
    with pytest.raises(InvalidModel):
        await inference.run(files(put(models, data)), [X])


async def test_only_artifacts_of_the_folder_are_models(
    inference: WorkerInference, models: Path, digits: Path, tmp_path: Path
) -> None:
    link = models / ("0" * 64)
    link.symlink_to("/etc/passwd")
    for path in (put(tmp_path, digits.read_bytes()), models / ".." / digits.name, models / "../../etc/passwd", models):
        with pytest.raises(InvalidModel, match="expected a model artifact in"):
            await inference.run(files(path), [IMAGE])
    for path in (link, models / ("f" * 64)):
        with pytest.raises(Unavailable, match="in the cache"):
            await inference.run(files(path), [IMAGE])


async def test_outputs_that_fit_no_message_are_too_large(inference: WorkerInference, models: Path) -> None:
    model = put(models, onnx_models.as_many_zeros_as_asked())

    def shape(*sizes: int) -> Tensor:
        data = struct.pack(f"<{len(sizes)}q", *sizes)
        return Tensor(name="shape", datatype=Datatype.INT64, shape=(len(sizes),), data=data)

    assert len((await inference.run(files(model), [shape(2**22)])).outputs[0].data) == 2**24
    with pytest.raises(TooLarge, match="ask for fewer"):
        await inference.run(files(model), [shape(2**25)])
    with pytest.raises(ExecutionFailed):
        await inference.run(files(model), [shape(2**44)])


async def test_whoever_waits_and_raises_takes_no_lane_with_it(inference: WorkerInference, digits: Path) -> None:
    await inference.run(files(digits), [IMAGE])
    loop, heard = asyncio.get_running_loop(), list[object]()
    lanes = sorted(worker_of(inference)._lanes)

    def raises(_outcome: object) -> None:
        raise LookupError("nobody waits any more")

    loop.set_exception_handler(lambda _loop, context: heard.append(context["exception"]))
    try:
        for _ in range(20):
            inference.submit(files(digits).digest, [IMAGE], (), raises)
        while len(heard) < 20:
            await inference.run(files(digits), [IMAGE])
    finally:
        loop.set_exception_handler(None)
    assert {type(each) for each in heard} == {LookupError}
    assert sorted(worker_of(inference)._lanes) == lanes


async def test_outputs_of_too_many_dimensions_fail_their_own_request(inference: WorkerInference, models: Path) -> None:
    most, more = (put(models, onnx_models.as_many_dimensions_as_asked(count)) for count in (16, 17))

    def shape(rank: int) -> Tensor:
        return Tensor(name="shape", datatype=Datatype.INT64, shape=(rank,), data=struct.pack(f"<{rank}q", *[1] * rank))

    assert (await inference.run(files(most), [X, shape(16)])).outputs[0].shape == (1,) * 16
    before = pid_of(inference)
    with pytest.raises(ExecutionFailed, match=r"'y'.*16 items"):
        await inference.run(files(more), [X, shape(17)])
    with pytest.raises(ExecutionFailed, match=r"'y': expected shape \[-1, .*as the model says, got \[1\]"):
        await inference.run(files(most), [X, shape(1)])
    assert pid_of(inference) == before


async def test_answers_stay_right_when_the_outputs_of_a_call_change_or_a_run_of_it_fails(
    inference: WorkerInference, models: Path
) -> None:
    distinct, rows = put(models, onnx_models.distinct()), put(models, onnx_models.rows())
    for values in [[3, 3]] * 8 + [[1, 2], [5, 5], [6, 7]]:  # the first ones are bound to every lane
        outputs = (await inference.run(files(distinct), [floats("x", list(map(float, values)))])).outputs
        found = sorted(map(float, set(values)))
        assert [(each.shape, each.data) for each in outputs] == [((len(found),), floats("y", found).data)]
    for pick in [0] * 8 + [9, 1, 9, 2]:
        inputs = [
            floats("x", [1.0, pick], [1, 2]),
            Tensor(name="pick", datatype=Datatype.INT64, shape=(1,), data=struct.pack("<q", pick)),
        ]
        if pick > 4:
            with pytest.raises(InvalidTensor, match="out of data bounds"):
                await inference.run(files(rows), inputs)
        else:
            run = await inference.run(files(rows), inputs)
            expected: list[list[float]] = [[1.0 + pick], [2.0, 2.0 * pick], [pick]]
            assert [output.data for output in run.outputs] == [floats("", values).data for values in expected]


async def test_a_thousand_small_requests_at_once(inference: WorkerInference, digits: Path) -> None:
    before = pid_of(inference)
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(inference.run(files(digits), [IMAGE])) for _ in range(1000)]
    assert len({run.result().outputs[0].data for run in runs}) == 1
    assert pid_of(inference) == before


async def test_an_endless_run_is_cancelled_within_a_second_and_the_worker_stays(
    inference: WorkerInference, models: Path, digits: Path
) -> None:
    endless = put(models, onnx_models.endless())
    before = pid_of(inference)
    async with asyncio.timeout(10):
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(inference.run(files(endless), [X])) for _ in range(QUICK.slots)]
            await until_running(inference, QUICK.slots)
            async with asyncio.timeout(1):
                for each in running:
                    each.cancel()
                await asyncio.wait(running)
        assert all(each.cancelled() for each in running)
        assert (await inference.run(files(digits), [IMAGE])).provider == CPU
    assert pid_of(inference) == before


async def until_running(inference: WorkerInference, count: int) -> None:
    """Until so many orders have been sent to the worker."""
    while len(worker_of(inference)._orders) < count:  # noqa: ASYNC110 - no event for tests
        await asyncio.sleep(0)


async def test_a_run_beyond_its_time_is_stopped(models: Path) -> None:
    endless = put(models, onnx_models.endless())
    async with await inference_in(models, replace(QUICK, run_seconds=0.3, grace_seconds=5)) as inference:
        await inference.start()
        before = pid_of(inference)
        with pytest.raises(AttemptTimeout, match=r"within 0\.3 s"):
            await inference.run(files(endless), [X])
        assert pid_of(inference) == before


async def test_a_worker_that_does_not_obey_is_killed(models: Path, digits: Path) -> None:
    async with await inference_in(models, replace(QUICK, grace_seconds=0.1)) as inference:
        await inference.run(files(digits), [IMAGE])
        before, worker = pid_of(inference), worker_of(inference)
        os.kill(before, signal.SIGSTOP)
        while not all(") T " in each.read_text() for each in Path(f"/proc/{before}/task").glob("*/stat")):  # noqa: ASYNC110
            await asyncio.sleep(0)  # each of its threads stops in its own time
        async with asyncio.TaskGroup() as group:
            running = group.create_task(inference.run(files(digits), [IMAGE]))
            await until_running(inference, 1)
            running.cancel()
        await worker.ended.wait()
        assert (await inference.run(files(digits), [IMAGE])).provider == CPU
        assert pid_of(inference) != before


async def test_the_worker_starts_before_the_first_request_in_every_confinement(
    sandbox: Sandbox, models: Path, digits: Path
) -> None:
    async with WorkerInference(models, QUICK, sandbox=sandbox, clock=SystemClock()) as inference:
        await inference.start()
        assert worker_of(inference).facts is not None
        assert (await inference.run(files(digits), [IMAGE])).provider == CPU


async def test_a_crash_fails_what_was_running_and_the_next_request_starts_anew(models: Path, digits: Path) -> None:
    endless = put(models, onnx_models.endless())
    async with await inference_in(models) as inference:
        await inference.start()
        before = pid_of(inference)

        async def run() -> None:
            with pytest.raises(ChildCrashed, match="starts it anew"):
                await inference.run(files(endless), [X])

        async with asyncio.TaskGroup() as group:
            for _ in range(QUICK.slots):
                group.create_task(run())
            await until_running(inference, QUICK.slots)
            os.kill(before, signal.SIGKILL)
        assert (await inference.run(files(digits), [IMAGE])).provider == CPU
        assert pid_of(inference) != before


async def test_a_load_that_is_given_up_takes_no_other_with_it(inference: WorkerInference, models: Path) -> None:
    model = files(put(models, onnx_models.weighty(1, 70)))
    async with asyncio.TaskGroup() as group:
        given_up = group.create_task(inference.run(model, [X]))
        await until_running(inference, 1)
        other = group.create_task(inference.load(model, ModelSettings()))
        await asyncio.sleep(0)
        given_up.cancel()
    assert other.result().provider == CPU
    assert model.digest in {warm.digest for warm in inference.warm()}


async def test_a_model_that_is_told_to_go_while_it_is_loaded_is_not_loaded(
    inference: WorkerInference, models: Path
) -> None:
    model = files(put(models, onnx_models.weighty(1, 71)))

    async def load() -> None:
        with pytest.raises(Unavailable, match="told to go meanwhile"):
            await inference.load(model, ModelSettings())

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        await until_running(inference, 1)
        await inference.unload(model.digest)
    assert model.digest not in {warm.digest for warm in inference.warm()}


async def test_leaving_the_block_fails_what_is_running_and_ends_the_process(models: Path) -> None:
    endless = put(models, onnx_models.endless())
    outcomes: list[TandemError] = []

    async def run(inference: WorkerInference) -> None:
        try:
            await inference.run(files(endless), [X])
        except TandemError as error:
            outcomes.append(error)

    async with asyncio.TaskGroup() as group, await inference_in(models) as inference:
        await inference.start()
        pid = pid_of(inference)
        group.create_task(run(inference))
        await until_running(inference, 1)
    assert [type(outcome) for outcome in outcomes] == [ChildCrashed]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_models_are_evicted_least_recently_used_by_bytes(tmp_path: Path) -> None:
    a, b, c = (put(tmp_path, onnx_models.weighty(16, seed)) for seed in range(3))
    async with await inference_in(tmp_path, replace(QUICK, cache_mib=40)) as inference:
        warm = [(await inference.run(files(model), [X])).warm for model in (a, a, b, a, c, a, b)]
    assert warm == [False, True, False, True, False, True, False]


async def test_a_provider_that_does_not_work_is_left_out_and_said(tmp_path: Path) -> None:
    model = put(tmp_path, onnx_models.DIGITS.read_bytes())
    async with await inference_in(tmp_path, replace(QUICK, providers=("DmlExecutionProvider", CPU))) as inference:
        ready = await inference.start()
        assert ready.providers == (CPU,)
        assert ready.missing[0].startswith("DmlExecutionProvider")
        assert (await inference.run(files(model), [IMAGE])).provider == CPU


async def test_without_any_provider_the_worker_does_not_start(tmp_path: Path) -> None:
    async with await inference_in(tmp_path, replace(QUICK, providers=("DmlExecutionProvider",))) as inference:
        with pytest.raises(ChildCrashed, match="DmlExecutionProvider"):
            await inference.start()


async def test_exactly_one_runtime_is_installed_here() -> None:
    assert installed_package() in {"onnxruntime", "onnxruntime-gpu"}
