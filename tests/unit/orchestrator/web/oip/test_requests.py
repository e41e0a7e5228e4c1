import json
import struct
from typing import Any

import pytest

from orchestrator.web.oip.requests import parse_request
from orchestrator.web.oip.served import Served
from tandem.protocol.errors import InvalidRequest
from tandem.protocol.tensors import Tensor, join_bytes
from tests.fixtures.oip import described, model

MODEL = Served(model(("x", "FP32", (-1, 2)), ("s", "BYTES", (1,)), ("b", "BF16", (2,)), name="three"))
ONE = Served(model(("x", "FP32", (-1, 2))))
DATA = struct.pack("<2f", 1, 2)


def parse(served: Served, body: Any, *data: bytes, header_length: int | None = None) -> Any:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    if data and header_length is None:
        header_length = len(text)
    return parse_request(served, "key", memoryview(b"".join([text, *data])), header_length)


def test_tensors_in_json_and_as_bytes_together() -> None:
    text = join_bytes([b"\xff\x00"])
    inputs = [
        described("s", "BYTES", [1], len(text)),
        described("x", "FP32", [1, 2], data=[[1, 2]]),
        described("b", "BF16", [2], 4),
    ]
    call, wanted = parse(MODEL, {"inputs": inputs}, text, b"\x80\x3f\x00\x40")
    assert [(each.name, bytes(each.data)) for each in call.inputs] == [
        ("s", text),
        ("x", DATA),
        ("b", b"\x80\x3f\x00\x40"),
    ]
    assert (call.owner, call.outputs, call.priority, call.timeout) == ("key", (), 0, None)
    assert wanted == (None, ("x_out", "s_out", "b_out"), (False, False, False))


def test_tensors_are_views_of_the_body() -> None:
    body = json.dumps({"inputs": [described("x", "FP32", [1, 2], 8)]}).encode()
    whole = bytearray(body + DATA)
    call, _ = parse_request(ONE, "key", memoryview(whole), len(body))
    whole[-4:] = struct.pack("<f", 7)
    assert struct.unpack("<2f", call.inputs[0].data) == (1, 7)


@pytest.mark.parametrize(
    ("more", "binary"),
    [
        ({}, (False,)),
        ({"parameters": {"binary_data_output": True}}, (True,)),
        ({"outputs": [{"name": "x_out"}]}, (False,)),
        ({"outputs": [{"name": "x_out"}], "parameters": {"binary_data_output": True}}, (True,)),
        ({"outputs": [{"name": "x_out", "parameters": {"binary_data": True}}]}, (True,)),
        (
            {
                "outputs": [{"name": "x_out", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            (False,),
        ),
    ],
)
def test_an_output_is_binary_if_it_is_asked_for_so_or_all_are(more: dict[str, Any], binary: tuple[bool, ...]) -> None:
    _, wanted = parse(ONE, {"inputs": [described("x", "FP32", [1, 2], data=[1, 2])], **more})
    assert wanted.binary == binary


def test_parameters() -> None:
    body = {
        "id": "seven",
        "inputs": [described("x", "FP32", [1, 2], data=[1, 2])],
        "parameters": {"timeout": 1500, "priority": 1, "hedge": True, "sequence_id": 0, "whatever": {}},
    }
    call, wanted = parse(ONE, body)
    assert (call.timeout, call.priority, call.hedge, wanted.id) == (0.0015, 127, True, "seven")


def test_nan_and_infinities_are_numbers() -> None:
    call, _ = parse(ONE, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[NaN,-Infinity]}]}')
    first, second = struct.unpack("<2f", call.inputs[0].data)
    assert first != first  # noqa: PLR0124 - as only NaN is
    assert second == float("-inf")


def x(*, shape: Any = (1, 2), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, **more}


GOOD = x(data=[1, 2])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[NaN" + b"[" * 100_000, "JSON"),
        (b"{]", "JSON"),
        (b"\xff", "JSON"),
        ([], "an object"),
        ({}, "inputs: expected a list, got none"),
        ({"inputs": {}}, "inputs: expected a list"),
        ({"inputs": []}, "got none of the name 'x'"),
        ({"inputs": [1]}, "an input: expected an object"),
        ({"inputs": [{}]}, "out of .'x'., got one of the name none"),
        ({"inputs": [{"name": ["x"]}]}, "got one of the name"),
        ({"inputs": [GOOD, GOOD]}, "'x': expected it once"),
        ({"inputs": [GOOD | {"name": "y"}]}, "got one of the name 'y'"),
        ({"inputs": [x(datatype="FP16")]}, "expected datatype FP32, got 'FP16'"),
        ({"inputs": [x(datatype=None)]}, "expected datatype FP32, got none"),
        ({"inputs": [x(datatype=["FP32"])]}, "expected datatype FP32"),
        ({"inputs": [x(shape="12")]}, "'x': expected a shape"),
        ({"inputs": [x(shape=[1] * 17)]}, "'x': expected a shape of at most 16"),
        ({"inputs": [x(shape=[-1, 2])]}, "sizes of 0 or more"),
        ({"inputs": [x(shape=[1.0, 2])]}, "sizes of 0 or more"),
        ({"inputs": [x(shape=[float("nan"), 2])]}, "sizes of 0 or more"),
        ({"inputs": [x(shape=[True, 2])]}, "sizes of 0 or more"),
        ({"inputs": [x(shape=[2**62, 2**62])]}, "fewer than"),
        ({"inputs": [x(shape=[10**30, 2])]}, "expected"),
        ({"inputs": [x(shape=[0, 2**45])]}, "fewer than"),
        ({"inputs": [x(shape=[1, 3], data=[1, 2, 3])]}, r"shape \[-1, 2\]"),
        ({"inputs": [x(shape=[2], data=[1, 2])]}, r"shape \[-1, 2\]"),
        ({"inputs": [x(shape=[10**9, 2], data=[1, 2])]}, "2000000000 elements"),
        ({"inputs": [x(data=[1])]}, "'x': expected data for shape"),
        ({"inputs": [x(data=["1", "2"])]}, "'x': expected elements of FP32"),
        ({"inputs": [x(data="12")]}, "data as a list"),
        ({"inputs": [x()]}, "data as a list"),
        ({"inputs": [x(parameters=[])]}, "parameters of tensor 'x'"),
        ({"inputs": [x(parameters={"shared_memory_region": "r"})]}, "share no memory"),
        ({"inputs": [x(parameters={"binary_data_size": -8})]}, "of 0 bytes or more"),
        ({"inputs": [x(parameters={"binary_data_size": 8.5})]}, "of 0 bytes or more"),
        ({"inputs": [x(parameters={"binary_data_size": 8}, data=[1, 2])]}, "got both"),
        ({"inputs": [x(parameters={"binary_data_size": 8})]}, "expected 8 bytes in the body"),
        ({"inputs": [GOOD], "outputs": [{"name": "y"}]}, "outputs out of"),
        ({"inputs": [GOOD], "outputs": [{"name": "x_out"}, {"name": "x_out"}]}, "each once"),
        ({"inputs": [GOOD], "outputs": []}, "at least one"),
        ({"inputs": [GOOD], "outputs": [{"name": "x_out", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [GOOD], "outputs": [{"name": "x_out", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"inputs": [GOOD], "id": 7}, "id: expected a string"),
        ({"inputs": [GOOD], "id": "7" * 2000}, "id: expected a string"),
        (b'{"id":"\\ud800","inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[NaN,1]}]}', "of Unicode"),
        ({"inputs": [GOOD], "parameters": 7}, "parameters of the request"),
        ({"inputs": [GOOD], "parameters": {"timeout": -1}}, "microseconds"),
        ({"inputs": [GOOD], "parameters": {"timeout": 1e99}}, "microseconds"),
        ({"inputs": [GOOD], "parameters": {"priority": 256}}, "priority"),
        ({"inputs": [GOOD], "parameters": {"hedge": "yes"}}, "parameters.hedge: expected true or false, got 'yes'"),
        ({"inputs": [GOOD], "parameters": {"sequence_id": 7}}, "sequence_id"),
    ],
)
def test_whatever_is_wrong_is_named(body: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as raised:
        parse(ONE, body)
    assert len(raised.value.detail) < 500


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"\x00", DATA * 2])
def test_bytes_behind_the_json_are_as_many_as_the_inputs_say(data: bytes) -> None:
    body = json.dumps({"inputs": [described("x", "FP32", [1, 2], 8)]}).encode()
    with pytest.raises(InvalidRequest, match="expected 8 bytes"):
        parse(ONE, body, data, header_length=len(body))


def test_bytes_are_as_many_as_the_shape_says() -> None:
    with pytest.raises(InvalidRequest, match="tensor 'x': expected 16 bytes for FP32"):
        parse(ONE, {"inputs": [described("x", "FP32", [2, 2], 8)]}, DATA)


def test_lengths_of_strings_add_up() -> None:
    served = Served(model(("s", "BYTES", (-1,))))
    for shape, data in (([1], b"\xff\xff\xff\xff"), ([2], join_bytes([b"a"])), ([1], join_bytes([b"a", b"b"]))):
        with pytest.raises(InvalidRequest, match="tensor 's': expected"):
            parse(served, {"inputs": [described("s", "BYTES", shape, len(data))]}, data)


def test_json_is_no_longer_than_the_body() -> None:
    with pytest.raises(InvalidRequest, match="at most the body's"):
        parse(ONE, {"inputs": [GOOD]}, header_length=10**6)


def test_a_tensor_is_a_tensor() -> None:
    call, _ = parse(ONE, {"inputs": [described("x", "FP32", [0, 2], 0)]}, b"")
    assert call.inputs == (Tensor("x", ONE.info.inputs[0].datatype, (0, 2), b""),)
