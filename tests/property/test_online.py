"""The heads of requests on line: what is written is read back, and nothing that comes breaks the reader."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.protocol.errors import InvalidTensor, MalformedMessage
from tandem.protocol.online import (
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from tandem.protocol.tensors import Datatype, Tensor

NAMES = st.text(min_size=1, max_size=40)
DIGEST = "sha256:" + "ab" * 32


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = 4
    for each in shape:
        size *= each
    return Tensor(draw(NAMES), Datatype.FP32, shape, draw(st.binary(min_size=size, max_size=size)))


def body(given: list[Tensor]) -> memoryview:
    return memoryview(b"".join(tensor.data for tensor in given))


@given(st.integers(0, 2**64 - 1), st.lists(NAMES, max_size=3), st.lists(tensors(), max_size=3))
def test_a_request_is_read_as_it_was_written(price: int, outputs: list[str], inputs: list[Tensor]) -> None:
    head = RequestHead(DIGEST, price, tuple(outputs))
    assert decode_request(encode_request(head, inputs), body(inputs)) == (head, tuple(inputs))


@given(NAMES, st.integers(0, 2**32 - 1), st.booleans(), st.lists(tensors(), max_size=3))
def test_a_response_is_read_as_it_was_written(provider: str, number: int, warm: bool, outputs: list[Tensor]) -> None:
    head = ResponseHead(provider, number, number, number, warm)
    assert decode_response(encode_response(head, outputs), body(outputs)) == (head, tuple(outputs))


@given(st.binary(max_size=200), st.binary(max_size=40), st.booleans())
def test_noise_has_a_named_error(noise: bytes, data: bytes, begins: bool) -> None:
    good = encode_response(ResponseHead("CPU", 1, 1, 1, warm=True), [Tensor("y", Datatype.FP32, (2,), bytes(8))])
    for head in (noise, good[: len(noise)] + noise, good[:20] + noise if begins else noise):
        for decode in (decode_request, decode_response):
            with contextlib.suppress(MalformedMessage, InvalidTensor):
                decode(head, memoryview(data))


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (Tensor("y", Datatype.FP32, (2,), bytes(7)), 7),
        (Tensor("y", Datatype.FP32, (2,), bytes(8)), 7),
        (Tensor("y", Datatype.FP32, (2**20, 2**20, 0), b""), 0),
        (Tensor("y", Datatype.FP32, (1,) * 17, bytes(4)), 4),
        (Tensor("y", Datatype.BYTES, (2,), b"\4\0\0\0text"), 8),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: Tensor, data: int) -> None:
    head = encode_response(ResponseHead("CPU", 1, 1, 1, warm=True), [tensor])
    with pytest.raises((MalformedMessage, InvalidTensor), match="expected"):
        decode_response(head, memoryview(bytes(tensor.data)[:data]))
