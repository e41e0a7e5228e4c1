"""Inspecting models: the one that ships, and some that must not be served."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from tandem.clock import SystemClock
from tandem.inspection.calls import ModelReport, inspect_model
from tandem.inspection.trial import Trial
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import InvalidModel
from tandem.protocol.tensors import Datatype
from tests.fixtures import onnx_models


async def inspect(path: Path, sandbox: Sandbox = Sandbox.LIMITS, trial: Trial | None = None) -> ModelReport:
    return await inspect_model(path, trial or Trial(), sandbox=sandbox, clock=SystemClock())


async def test_the_digit_classifier(tmp_path: Path, sandbox: Sandbox) -> None:
    report = await inspect(onnx_models.put(tmp_path, onnx_models.DIGITS.read_bytes()), sandbox)
    (image,) = report.inputs
    assert (image.name, image.datatype, image.shape) == ("image", Datatype.FP32, (-1, 64))
    assert [output.name for output in report.outputs] == ["label", "probabilities"]
    assert 0 < report.cost_us < 100_000
    assert 0 < report.memory < 200
    assert (report.opset, report.measured, report.unbatchable) == (17, (), None)


async def test_text_flags_and_halves_are_known(tmp_path: Path) -> None:
    report = await inspect(onnx_models.put(tmp_path, onnx_models.echo()))
    assert {spec.name: spec.datatype for spec in report.inputs} == {
        "text": Datatype.BYTES,
        "flag": Datatype.BOOL,
        "half": Datatype.FP16,
    }


async def test_memory_is_measured(tmp_path: Path) -> None:
    report = await inspect(onnx_models.put(tmp_path, onnx_models.weighty(32)))
    assert 32 <= report.memory <= 200


def unrunnable() -> bytes:
    """Wants pictures of at least three pixels, and says that any will do."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])
    given = [onnx_models.value("x", shape=[1, 1, "h", "w"])]
    graph = helper.make_graph([node], "pool", given, [onnx_models.value("y", shape=[1, 1, "a", "b"])])
    return onnx_models.bytes_of(onnx_models.model_of(graph))


def sourceless() -> bytes:
    constant = helper.make_node("Constant", [], ["y"], value_float=1.0)
    graph = helper.make_graph([constant], "none", [], [onnx_models.value("y", shape=[])])
    return onnx_models.bytes_of(onnx_models.model_of(graph))


def huge_input() -> bytes:
    node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=1)
    graph = helper.make_graph(
        [node],
        "huge",
        [onnx_models.value("x", TensorProto.FLOAT, [2**20, 2**20])],
        [onnx_models.value("y", shape=[1, 1])],
    )
    return onnx_models.bytes_of(onnx_models.model_of(graph))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 100, "a file that is none"),
        (onnx_models.custom_operator("", "Nonsense"), r"ONNX Runtime [\d.]+ can load"),
        (onnx_models.sequence_output(), r"got seq\(tensor\(float\)\) for 'y'"),
        (unrunnable(), "every open dimension at 1"),
        (sourceless(), "at least one input"),
        (huge_input(), "elements, got"),
        (onnx_models.echo().replace(b"text", b"te\xff\xfe"), "broke its reader: UnicodeDecodeError"),
        (onnx_models.echo().replace(b"Identity", b"Identit\xff"), r"ONNX Runtime [\d.]+ can load"),
    ],
    ids=["garbage", "unknown operator", "sequence", "unrunnable", "sourceless", "huge", "names", "printed about"],
)
async def test_a_model_that_cannot_be_served_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        await inspect(onnx_models.put(tmp_path, data))


async def test_a_model_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.inspection.calls._MODEL_SECONDS", 2)
    with pytest.raises(InvalidModel, match="within bounds"):
        await inspect(onnx_models.put(tmp_path, onnx_models.endless()))
