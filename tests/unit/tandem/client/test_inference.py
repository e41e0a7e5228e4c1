"""Tensors from and to plain lists."""

import math
from typing import Any

import pytest

from orchestrator.core.views import model_view
from tandem.client.inference import inference_request, nested, tensor_json
from tandem.protocol.errors import InvalidTensor
from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import Datatype, TensorJson, TensorSpec


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(name="x", datatype=Datatype.FP32, shape=shape)


@pytest.mark.parametrize(
    ("shape", "data", "expected"),
    [
        ((-1, 2), [[1, 2], [3, 4]], (2, 2)),
        ((-1, 2), [1, 2, 3, 4], (2, 2)),
        ((-1,), [1, 2, 3], (3,)),
        ((1, 1, 2), [1, 2], (1, 1, 2)),
        ((), [5], ()),
        ((-1, -1), [[1, 2, 3]], (1, 3)),
    ],
)
def test_the_shape_follows_from_nesting_or_from_the_model(
    shape: tuple[int, ...], data: list[Any], expected: tuple[int, ...]
) -> None:
    assert tensor_json(spec(*shape), data).shape == expected


@pytest.mark.parametrize(
    ("shape", "data"), [((-1, -1), [1, 2]), ((-1, 2), [1, 2, 3]), ((1, 2), [1]), ((1, 1, 2), [[1, 2]])]
)
def test_a_shape_that_cannot_be_told_is_an_error(shape: tuple[int, ...], data: list[Any]) -> None:
    with pytest.raises(InvalidTensor, match="'x'"):
        tensor_json(spec(*shape), data)


def test_inputs_are_those_of_the_model() -> None:
    info = ModelInfo(
        name="m", version="2", artifact="sha256:" + "a" * 64, size=1, inputs=(spec(2),), outputs=(), cost_us=1, memory=0
    )
    model = model_view(info, own=True, answers=True)
    assert inference_request(model, {"x": [1, 2]}).version == "2"
    with pytest.raises(InvalidTensor, match="expected the inputs"):
        inference_request(model, {"y": [1, 2]})


def test_values_are_nested_like_their_shape() -> None:
    flat = TensorJson(name="y", datatype=Datatype.INT64, shape=(2, 1, 2), data=[1, 2, 3, 4])
    assert nested(flat) == [[[1, 2]], [[3, 4]]]
    assert nested(TensorJson(name="y", datatype=Datatype.INT64, shape=(), data=[7])) == 7
    assert nested(TensorJson(name="y", datatype=Datatype.INT64, shape=(0, 3), data=[])) == []


def test_numbers_that_json_lacks_come_back() -> None:
    values = nested(TensorJson(name="y", datatype=Datatype.FP32, shape=(2,), data=["NaN", "-Infinity"]))
    assert math.isnan(values[0])
    assert values[1] == -math.inf
