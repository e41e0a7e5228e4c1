import json
import math
import struct

import pytest

from orchestrator.core.online import OnlineAnswer
from orchestrator.web.oip.replies import error_reply, inference_reply
from orchestrator.web.oip.requests import Wanted
from orchestrator.web.oip.served import Served
from tandem.protocol.errors import (
    DeadlineExceeded,
    InvalidTensor,
    NotFound,
    Overloaded,
    TandemError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tandem.protocol.tensors import Datatype, Tensor, join_bytes
from tests.fixtures.oip import model

SERVED = Served(model(("x", "FP32", (2,)), ("s", "BYTES", (1,))))


def answer(*outputs: Tensor) -> OnlineAnswer:
    return OnlineAnswer(outputs, "CPUExecutionProvider", "0xnode", 7, 3, warm=True)


def test_outputs_as_bytes_follow_the_json_in_order() -> None:
    x = Tensor("x_out", Datatype.FP32, (2,), struct.pack("<2f", 1, 2))
    s = Tensor("s_out", Datatype.BYTES, (1,), memoryview(join_bytes([b"\xff"])))
    reply = inference_reply(SERVED, Wanted("7", ("x_out", "s_out"), (True, True)), answer(x, s))
    body = b"".join(reply.parts)
    length = int(reply.headers["Inference-Header-Content-Length"])
    assert body[length:] == bytes(x.data) + join_bytes([b"\xff"])
    assert json.loads(body[:length]) == {
        "id": "7",
        "model_name": "echo",
        "model_version": "1",
        "outputs": [
            {"name": "x_out", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "s_out", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ],
        "parameters": {"provider": "CPUExecutionProvider", "node": "0xnode", "run_us": 7, "queue_us": 3},
    }


def test_outputs_as_json_spell_out_what_json_has_not() -> None:
    x = Tensor("x_out", Datatype.FP32, (2,), struct.pack("<2f", float("nan"), float("-inf")))
    s = Tensor("s_out", Datatype.BYTES, (1,), join_bytes(["é null".encode()]))
    reply = inference_reply(SERVED, Wanted(None, ("x_out", "s_out"), (False, False)), answer(x, s))
    assert reply.headers == {"Content-Type": "application/json"}
    outputs = json.loads(bytes(reply.parts[0]))["outputs"]
    assert math.isnan(outputs[0]["data"][0])
    assert outputs[0]["data"][1] == float("-inf")
    assert outputs[1]["data"] == ["é null"]
    assert b"[NaN, -Infinity]" in bytes(reply.parts[0])


def test_strings_that_are_no_text_are_to_be_had_as_bytes_alone() -> None:
    s = Tensor("s_out", Datatype.BYTES, (1,), join_bytes([b"\xff"]))
    with pytest.raises(InvalidTensor, match="binary_data"):
        inference_reply(SERVED, Wanted(None, ("s_out",), (False,)), answer(s))


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidTensor("tensor 'x'"), 400, {}),
        (NotFound("none"), 404, {}),
        (TooLarge("big"), 413, {}),
        (Unauthorized("who"), 401, {"WWW-Authenticate": "Bearer"}),
        (Overloaded("full", 2.4), 429, {"Retry-After": "2"}),
        (Overloaded("full", 0.1), 429, {"Retry-After": "1"}),
        (Unavailable("none"), 503, {"Retry-After": "5"}),
        (DeadlineExceeded("late"), 504, {}),
        (TimeoutError(), 408, {}),
    ],
)
def test_errors_are_as_the_protocol_has_them(error: Exception, status: int, headers: dict[str, str]) -> None:
    reply = error_reply(error)
    assert (reply.status, reply.headers) == (status, {"Content-Type": "application/json"} | headers)
    said = json.loads(bytes(reply.parts[0]))
    assert set(said) == {"error", "code"}
    if isinstance(error, TandemError):
        assert said == {"error": error.detail, "code": error.code}


def test_bugs_are_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    reply = error_reply(ValueError("secret"))
    assert reply.status == 500
    assert b"secret" not in bytes(reply.parts[0])
    assert "secret" in caplog.text
