import struct
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.protocol.errors import InvalidTensor
from tandem.protocol.tensors import (
    MAX_STRINGS,
    Datatype,
    Tensor,
    TensorJson,
    TensorMeta,
    TensorSpec,
    check_tensor,
    check_tensors,
    element_size,
    tensor_from_json,
    tensor_to_json,
)
from tandem.protocol.wording import shown
from tests.fixtures.protocol import tensor


def written(datatype: str, shape: tuple[int, ...], data: list[Any]) -> TensorJson:
    return TensorJson(name="x", datatype=Datatype(datatype), shape=shape, data=data)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_data_are_flat_or_nested_like_the_shape(data: list[Any]) -> None:
    assert tensor_from_json(written("INT32", (2, 3), data)).data == struct.pack("<6i", 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "data",
    [
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2, 3], [4, 5]],
        [[1, 2, 3], 4, 5, 6],
        [[1, 2, 3, 4, 5, 6]],
        [[[1], [2], [3]], [[4], [5], [6]]],
        [1, 2, 3],
        [],
    ],
    ids=["transposed", "ragged", "mixed", "one row", "too deep", "too few", "none"],
)
def test_any_other_nesting_is_refused(data: list[Any]) -> None:
    with pytest.raises(InvalidTensor, match="tensor 'x'"):
        tensor_from_json(written("INT32", (2, 3), data))


def test_depth_is_bounded_by_the_shape() -> None:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(InvalidTensor):
        tensor_from_json(TensorJson.model_construct(name="x", datatype=Datatype.INT8, shape=(1, 1), data=data))


@pytest.mark.parametrize(
    ("datatype", "item"),
    [
        ("INT8", 128),
        ("UINT8", -1),
        ("INT64", 2**63),
        ("INT32", 1.5),
        ("INT32", True),
        ("FP32", True),
        ("FP32", "1"),
        ("FP32", None),
        ("FP32", {}),
        ("FP32", 10**400),
        ("FP16", 1e6),
        ("FP32", 1e300),
        ("BOOL", 1),
        ("BYTES", 1),
        ("BYTES", "\ud800"),
    ],
)
def test_elements_of_another_type_are_refused(datatype: str, item: object) -> None:
    with pytest.raises(InvalidTensor) as caught:
        tensor_from_json(written(datatype, (1,), [item]))
    assert caught.value.detail.endswith(f"expected elements of {datatype}, got {shown(item)} as number 1")


def test_not_a_number_is_a_number() -> None:
    back = tensor_to_json(tensor("y", float("nan"), float("inf"))).data
    assert back[0] != back[0]
    assert back[1] == float("inf")


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (2**39, 0)])
def test_a_tensor_may_have_no_elements(shape: tuple[int, ...]) -> None:
    empty = tensor_from_json(written("FP32", shape, []))
    assert empty.data == b""
    check_tensor(empty)


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (2**39, 2**39, 0), (-1,), (1,) * 17])
def test_shapes_beyond_any_memory_are_refused_even_if_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        TensorMeta(name="x", datatype=Datatype.FP32, shape=shape, size=0)


def test_text_that_is_not_utf8_comes_as_base64() -> None:
    raw = Tensor(name="x", datatype=Datatype.BYTES, shape=(2,), data=b"\x02\0\0\0\xff\xfe\x01\0\0\0a")
    assert tensor_to_json(raw).data == ["//4=", "a"]


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (1, b""),
        (0, b"\0\0\0\0"),
        (1, b"\0\0\0"),
        (1, b"\x02\0\0\0a"),
        (1, b"\xff\xff\xff\xffa"),
        (1, b"\0\0\0\0" * 2),
    ],
)
def test_lengths_that_do_not_add_up_are_refused(count: int, data: bytes) -> None:
    with pytest.raises(InvalidTensor, match="length-prefixed"):
        check_tensor(Tensor(name="x", datatype=Datatype.BYTES, shape=(count,), data=data))


SPEC = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1,))


def test_open_dimensions_take_any_size() -> None:
    check_tensors([SPEC], [tensor("x", 1.0, 2.0)])
    check_tensors([SPEC], [tensor("x")])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "each once"),
        ([tensor("y", 1.0)], "each once"),
        ([tensor("x", 1.0)] * 2, "each once"),
        ([Tensor(name="x", datatype=Datatype.INT32, shape=(1,), data=bytes(4))], "datatype FP32, got INT32"),
        ([Tensor(name="x", datatype=Datatype.FP32, shape=(1, 1), data=bytes(4))], r"shape \[-1\] .* got \[1, 1\]"),
        ([Tensor(name="x", datatype=Datatype.FP32, shape=(2,), data=bytes(4))], "8 bytes for FP32"),
    ],
)
def test_tensors_that_a_model_does_not_take(tensors: list[Tensor], said: str) -> None:
    with pytest.raises(InvalidTensor, match=said):
        check_tensors([SPEC], tensors)


def test_sizes_of_elements() -> None:
    sizes = {kind.value: element_size(kind) for kind in Datatype}
    assert (sizes["BOOL"], sizes["FP16"], sizes["UINT64"], sizes["BYTES"]) == (1, 2, 8, None)


def test_strings_are_bounded_in_number() -> None:
    most = Tensor(name="x", datatype=Datatype.BYTES, shape=(MAX_STRINGS,), data=bytes(4 * MAX_STRINGS))
    check_tensor(most)
    one_more = most._replace(shape=(MAX_STRINGS + 1,), data=bytes(4 * MAX_STRINGS + 4))
    with pytest.raises(InvalidTensor, match="at most 65536 elements"):
        check_tensor(one_more)
    with pytest.raises(InvalidTensor, match="at most 65536 elements"):
        tensor_to_json(one_more)


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),
        (1 + 3 * 2**-8, 0x3F82),
        (1 + 2**-8 + 2**-16, 0x3F81),
        (-2.0, 0xC000),
        (3.4e38, 0x7F80),
        (float("inf"), 0x7F80),
    ],
)
def test_bf16_is_the_nearest_and_of_two_the_even_one(number: float, bits: int) -> None:
    assert tensor_from_json(written("BF16", (1,), [number])).data == struct.pack("<H", bits)


def test_nan_stays_nan_in_bf16() -> None:
    (number,) = tensor_to_json(tensor_from_json(written("BF16", (1,), [float("nan")]))).data
    assert number != number  # noqa: PLR0124 - as only NaN is
