"""Inspecting models: the one that ships, and some that must not be served."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tandem.clock import SystemClock
from tandem.inspection import repeating
from tandem.inspection.calls import ModelReport, inspect_model
from tandem.inspection.trial import Trial
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import InvalidModel
from tandem.protocol.models import Tolerance, WarmUpTensor
from tandem.protocol.tensors import Datatype, TensorSpec
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
    assert (report.opset, report.measured, report.unbatchable, report.unrepeatable) == (17, (), None, None)


async def test_what_rolls_dice_cannot_be_compared(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["noise"], seed=1.0)], "then", [], [onnx_models.value("noise")]
    )
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["same"])], "else", [], [onnx_models.value("same")])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=plain),
    ]
    graph = helper.make_graph(
        nodes, "dice", [onnx_models.value("x", shape=["n"])], [onnx_models.value("y", shape=["n"])]
    )
    report = await inspect(onnx_models.put(tmp_path, onnx_models.bytes_of(onnx_models.model_of(graph))))
    assert report.unrepeatable is not None
    assert "RandomNormalLike" in report.unrepeatable


def test_a_second_run_that_differs_says_where() -> None:
    spec = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1,))
    for first, second, problem in (
        (np.zeros(2), np.ones(2), "is another"),
        (np.zeros(2), np.zeros(3), "another shape"),
        (np.array([1]), np.array([2]), "is another"),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0001]), None),
    ):
        runs = iter(([first], [second]))
        found = repeating.obstacle([spec], {}, lambda _, runs=runs: next(runs), Tolerance())  # type: ignore[misc]
        assert (found is None) if problem is None else (found is not None and problem in found)


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


def later_opset() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "late", [onnx_models.value("x")], [onnx_models.value("y")]
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 99)], ir_version=8).SerializeToString()
    )


def terabytes() -> bytes:
    """Fills a tensor of 2**40 floats that the model itself asks for."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["much"]), helper.make_node("Add", ["x", "much"], ["y"])]
    graph = helper.make_graph(
        nodes, "much", [onnx_models.value("x", shape=[1])], [onnx_models.value("y", shape=["a", "b"])], [shape]
    )
    return onnx_models.bytes_of(onnx_models.model_of(graph))


def halves(kind: int) -> bytes:
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "half", [onnx_models.value("x", kind)], [onnx_models.value("y", kind)])
    return onnx_models.bytes_of(onnx_models.model_of(graph))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (later_opset(), r"ONNX Runtime [\d.]+ can load.*opset"),
        (terabytes(), "expected"),
        (halves(TensorProto.BFLOAT16), r"got tensor\(bfloat16\) for 'x'; put a Cast"),
        (b"\xff" * 100, "a file that is none"),
        (onnx_models.custom_operator("", "Nonsense"), r"ONNX Runtime [\d.]+ can load"),
        (onnx_models.sequence_output(), r"got seq\(tensor\(float\)\) for 'y'"),
        (unrunnable(), "every open dimension at 1"),
        (sourceless(), "at least one input"),
        (huge_input(), "elements, got"),
        (onnx_models.as_many_dimensions_as_asked(), "the output 'y' to have the 0 dimensions.*leaves out, got 1; "),
        (onnx_models.abs_of(None, ["n"]), "a number of dimensions for the input 'x', got none; give it a shape"),
        (onnx_models.echo().replace(b"text", b"te\xff\xfe"), "broke its reader: UnicodeDecodeError"),
        (onnx_models.echo().replace(b"Identity", b"Identit\xff"), r"ONNX Runtime [\d.]+ can load"),
    ],
    ids=[
        "later opset",
        "terabytes",
        "bfloat16",
        "garbage",
        "unknown operator",
        "sequence",
        "unrunnable",
        "sourceless",
        "huge",
        "output without dimensions",
        "input without dimensions",
        "names",
        "printed about",
    ],
)
async def test_a_model_that_cannot_be_served_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        await inspect(onnx_models.put(tmp_path, data))


async def test_a_graph_of_many_nodes_is_answered_within_bounds(tmp_path: Path) -> None:
    names = ["x", *(f"t{number}" for number in range(49_999)), "y"]
    nodes = [helper.make_node("Neg", [one], [two]) for one, two in pairwise(names)]
    graph = helper.make_graph(nodes, "long", [onnx_models.value("x")], [onnx_models.value("y")])
    report = await inspect(onnx_models.put(tmp_path, onnx_models.bytes_of(onnx_models.model_of(graph))))
    assert report.memory < 2000


async def test_it_is_run_with_the_warm_up_inputs_that_are_given(tmp_path: Path) -> None:
    path = onnx_models.put(tmp_path, unrunnable())
    trial = Trial(warm_up=((WarmUpTensor(name="x", shape=(1, 1, 8, 8), data=(0.5,)),),))
    assert (await inspect(path, trial=trial)).measured == ((1, 1, 8, 8),)
    with pytest.raises(InvalidModel, match="runs with its warm-up inputs, got"):
        await inspect(path, trial=Trial(warm_up=((WarmUpTensor(name="x", shape=(1, 1, 1, 1)),),)))


async def test_a_model_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.inspection.calls._MODEL_SECONDS", 2)
    with pytest.raises(InvalidModel, match="within bounds"):
        await inspect(onnx_models.put(tmp_path, onnx_models.endless()))
