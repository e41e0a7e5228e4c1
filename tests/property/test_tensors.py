"""Tensors between their JSON and their raw form."""

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.protocol.errors import InvalidTensor
from tandem.protocol.tensors import (
    Datatype,
    Tensor,
    TensorJson,
    TensorSpec,
    check_tensor,
    check_tensors,
    elements,
    join_bytes,
    split_bytes,
    tensor_from_json,
    tensor_to_json,
)
from tests.property.strategies import labels, tensors, tuples

modest = settings(max_examples=50, deadline=None)
ELEMENTS: dict[Datatype, st.SearchStrategy[Any]] = {
    Datatype.BOOL: st.booleans(),
    Datatype.BYTES: st.text(max_size=5),
    Datatype.FP16: st.floats(width=16),
    Datatype.FP32: st.floats(width=32),
    Datatype.FP64: st.floats(),
    Datatype.BF16: st.integers(0, 2**16 - 1).map(lambda half: struct.unpack("<f", struct.pack("<I", half << 16))[0]),
} | {
    kind: st.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1)
    for bits in (8, 16, 32, 64)
    for signed, kind in ((0, Datatype(f"UINT{bits}")), (1, Datatype(f"INT{bits}")))
}


@st.composite
def written(draw: st.DrawFn) -> tuple[TensorJson, list[Any]]:
    """A tensor as a submitter writes it, flat or nested, with its flat elements."""
    datatype = draw(st.sampled_from(Datatype))
    shape = draw(tuples(st.integers(0, 3)))
    count = elements(shape)
    flat = draw(st.lists(ELEMENTS[datatype], min_size=count, max_size=count))
    data = flat if not shape or draw(st.booleans()) else nest(flat, shape)
    return TensorJson(name="x", datatype=datatype, shape=shape, data=data), flat


def nest(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return flat
    size = elements(shape[1:])
    return [nest(flat[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


def same(left: Any, right: Any) -> bool:
    return bool(left == right) or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


@modest
@given(written())
def test_what_is_written_comes_back_flat(case: tuple[TensorJson, list[Any]]) -> None:
    tensor, flat = case
    back = tensor_to_json(tensor_from_json(tensor))
    assert (back.name, back.datatype, back.shape) == (tensor.name, tensor.datatype, tensor.shape)
    assert len(back.data) == len(flat)
    assert all(map(same, back.data, flat))


@modest
@given(tensors())
def test_raw_tensors_agree_with_their_description(tensor: Tensor) -> None:
    check_tensor(tensor)
    spec = TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tuple(-1 for _ in tensor.shape))
    check_tensors([spec], [tensor])
    json.loads(tensor_to_json(tensor).model_dump_json())


@modest
@given(tensors(), st.binary(min_size=1, max_size=4))
def test_no_byte_more_or_less(tensor: Tensor, extra: bytes) -> None:
    for data in (bytes(tensor.data) + extra, tensor.data[:-1]):
        if data != tensor.data:
            with pytest.raises(InvalidTensor):
                check_tensor(tensor._replace(data=data))


@modest
@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_elements_keep_their_borders(items: list[bytes]) -> None:
    tensor = Tensor(name="x", datatype=Datatype.BYTES, shape=(len(items),), data=join_bytes(items))
    assert split_bytes(tensor) == items


@modest
@given(
    st.sampled_from(Datatype),
    tuples(st.integers(0, 3)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
    ).map(lambda value: value if isinstance(value, list) else [value]),
)
def test_no_data_break_the_reader(datatype: Datatype, shape: tuple[int, ...], data: list[Any]) -> None:
    try:
        tensor = tensor_from_json(TensorJson(name="x", datatype=datatype, shape=shape, data=data))
    except InvalidTensor:
        return
    check_tensor(tensor)


@modest
@given(labels, tensors(), tensors())
def test_two_tensors_of_one_name_are_refused(name: str, first: Tensor, second: Tensor) -> None:
    pair = [tensor._replace(name=name) for tensor in (first, second)]
    spec = TensorSpec(name=name, datatype=first.datatype, shape=first.shape)
    with pytest.raises(InvalidTensor, match="each once"):
        check_tensors([spec], pair)
