"""NVIDIA's own clients, unchanged, against the API with a real node behind it."""

import asyncio
import csv
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tandem.client import TandemClient
from tests.fixtures.api import DIGITS, Api, run_api
from tests.fixtures.node import NODE
from tests.fixtures.online import exchange, working_node
from tests.fixtures.onnx_models import bytes_of, echo, external, model_of, put, value

PERF_ANALYZER = shutil.which("perf_analyzer")


def doubled() -> bytes:
    """Twice x, of any number of rows."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubled",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
    )
    return bytes_of(model_of(graph))


@dataclass
class Served:
    api: Api
    headers: dict[str, str]

    @property
    def address(self) -> str:
        return self.api.url.removeprefix("http://")


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    models = folder / "models"
    for each in (models, folder / "api", folder / "exchange"):
        each.mkdir()
    async with (
        exchange(folder / "exchange") as running,
        working_node(running.origin, folder, models, NODE),
        run_api(folder / "api", anonymous=False, online=running.online) as api,
    ):
        served = Served(api, await api.bearer())
        for name, data in (("digits", DIGITS.read_bytes()), ("echo", echo()), ("doubled", doubled())):
            put(models, data)
            await register(served, name, data)
        await running.connected()
        yield served


async def register(served: Served, name: str, data: bytes) -> None:
    status, body = await served.api.call("POST", "/v1/artifacts", data=data, headers=served.headers)
    assert status == 201, body
    new = {"name": name, "version": "1", "artifact": body["id"]}
    status, body = await served.api.call("POST", "/v1/models", json=new, headers=served.headers)
    assert status == 201, body


# The client writes into the headers that it is given, so each call gets its own.
def sent(name: str, array: Any, datatype: str, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as raised:
        call()
    return raised.value.status(), raised.value.message()


async def test_the_client_that_waits(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await asyncio.to_thread(all_of_it, served)


def all_of_it(served: Served) -> None:
    with triton.InferenceServerClient(served.address, concurrency=2) as client:
        what_is_there(client, served.headers)
        what_is_asked(client, served.headers)
        what_is_refused(client, served.headers)
        counted(client, served.headers)


def what_is_there(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tandem"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert not client.is_model_ready("none", headers={**headers})
    metadata = client.get_model_metadata("doubled", "1", headers={**headers})
    assert metadata == {
        "name": "doubled",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    config = client.get_model_config("doubled", headers={**headers})
    assert (config["max_batch_size"], config["input"]) == (
        0,
        [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}],
    )
    index = client.get_model_repository_index(headers={**headers})
    assert {(each["name"], each["state"]) for each in index} == {
        ("digits", "UNAVAILABLE"),
        ("doubled", "UNAVAILABLE"),
        ("echo", "UNAVAILABLE"),
    }
    client.load_model("doubled", headers={**headers})
    index = client.get_model_repository_index(headers={**headers})
    assert {each["name"] for each in index if each["state"] == "READY"} == {"doubled"}
    assert "READY" in str(index)


def what_is_asked(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    for rows in (1, 4, 0, 100_000):
        array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        got = client.infer("doubled", [sent("x", array, "FP32")], headers={**headers}, request_id="7")
        np.testing.assert_array_equal(got.as_numpy("y"), array * 2)
        assert got.get_response()["id"] == "7"
    array = np.array([[1, np.nan, np.inf]], np.float32)
    for binary in (True, False):
        inputs = [sent("x", array, "FP32", binary=binary)]
        outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
        got = client.infer(
            "doubled",
            inputs,
            "1",
            outputs,
            headers={**headers},
            timeout=20_000_000,
            priority=1,
            request_compression_algorithm="gzip" if binary else "deflate",
        )
        np.testing.assert_array_equal(got.as_numpy("y"), array * 2)
    several(client, headers)
    waiting = [client.async_infer("doubled", [sent("x", array, "FP32")], headers={**headers}) for _ in range(8)]
    for each in waiting:
        np.testing.assert_array_equal(each.get_result().as_numpy("y"), array * 2)


def several(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    """Three datatypes at once, two of which JSON spells otherwise."""
    text = np.array(["", "a", "é", "long " * 1000], dtype=object)
    flag = np.array([True, False, True, True])
    half = np.array([0.5, -2, np.inf, 1e-7], np.float16)
    inputs = [sent("text", text, "BYTES"), sent("flag", flag, "BOOL"), sent("half", half, "FP16")]
    got = client.infer("echo", inputs, headers={**headers})
    assert [each.decode() for each in got.as_numpy("text_out")] == list(text)
    np.testing.assert_array_equal(got.as_numpy("flag_out"), flag)
    np.testing.assert_array_equal(got.as_numpy("half_out"), half)
    inputs[0] = sent("text", text, "BYTES", binary=False)
    got = client.infer(
        "echo", inputs, outputs=[triton.InferRequestedOutput("text_out", binary_data=False)], headers={**headers}
    )
    assert list(got.as_numpy("text_out")) == list(text)


def what_is_refused(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    good = [sent("x", np.ones((1, 3), np.float32), "FP32")]
    assert refusal(lambda: client.infer("doubled", good))[0] == "401"
    assert refusal(lambda: client.infer("none", good, headers={**headers}))[0] == "404"
    assert refusal(lambda: client.infer("doubled", good, "2", headers={**headers}))[0] == "404"
    wide = [sent("x", np.ones((1, 4), np.float32), "FP32")]
    assert refusal(lambda: client.infer("doubled", wide, headers={**headers})) == (
        "400",
        "tensor 'x': expected shape [-1, 3] (-1 is any), got [1, 4]",
    )
    double = [sent("x", np.ones((1, 3)), "FP64")]
    assert refusal(lambda: client.infer("doubled", double, headers={**headers})) == (
        "400",
        "tensor 'x': expected datatype FP32, got 'FP64'",
    )
    classes = [triton.InferRequestedOutput("y", class_count=3)]
    assert "classification" in refusal(lambda: client.infer("doubled", good, outputs=classes, headers={**headers}))[1]
    assert "share no memory" in refusal(lambda: client.get_system_shared_memory_status(headers={**headers}))[1]
    assert refusal(lambda: client.get_log_settings(headers={**headers}))[0] == "400"
    assert refusal(lambda: client.get_model_metadata("none", headers={**headers}))[0] == "404"


def counted(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    (stats,) = client.get_inference_statistics("doubled", headers={**headers})["model_stats"]
    success = stats["inference_stats"]["success"]
    assert success["count"] == 14
    assert success["ns"] > stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert stats["execution_count"] == 14
    assert {each["name"] for each in client.get_inference_statistics(headers={**headers})["model_stats"]} == {
        "digits",
        "doubled",
        "echo",
    }
    client.unload_model("doubled", headers={**headers})


async def test_the_client_that_does_not_wait(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, triton_aio.InferenceServerClient(served.address) as client:
        assert await client.is_model_ready("doubled", headers=served.headers) in {True, False}
        array = np.ones((2, 3), np.float32)
        inputs = [triton_aio.InferInput("x", [2, 3], "FP32")]
        inputs[0].set_data_from_numpy(array)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(client.infer("doubled", inputs, headers=served.headers)) for _ in range(16)]
        for each in asked:
            np.testing.assert_array_equal(each.result().as_numpy("y"), array * 2)


@pytest.mark.skipif(PERF_ANALYZER is None, reason="no perf_analyzer on PATH, whose binary wants glibc 2.38")
async def test_perf_analyzer(tmp_path: Path) -> None:
    assert PERF_ANALYZER is not None
    async with serving(tmp_path) as served:
        command = [PERF_ANALYZER, "-m", "doubled", "-u", served.address, "-i", "http", "--shape", "x:1,3"]
        command += ["-H", f"Authorization: {served.headers['Authorization']}", "--concurrency-range", "2"]
        command += ["-p", "500", "-r", "3", "-s", "1000", "-f", f"{tmp_path}/out.csv"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
        assert float(row["Inferences/Second"]) > 1, output.decode()


async def test_external_data_go_the_whole_way(tmp_path: Path) -> None:
    path, weights = tmp_path / "split.onnx", np.array([4], np.float32).tobytes()
    path.write_bytes(external("data/weights.bin", offset="0", length="4"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(weights)
    async with serving(tmp_path) as served, TandemClient(served.api.url, served.headers["Authorization"][7:]) as client:
        for data in (path.read_bytes(), weights):
            put(tmp_path / "models", data)
        await client.upload_model(path, "split")
        url = f"{served.api.url}/v2/models/split/infer"
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}]}
        async with served.api.http.post(url, json=body, headers=served.headers) as answer:
            assert (await answer.json())["outputs"][0]["data"] == [5.5]
