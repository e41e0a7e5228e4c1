"""What the daemon and its inference workers say to each other."""

import json

import pytest
from pydantic import ValidationError

from node.children.wire import (
    HALF_LANE,
    MAX_BODY_BYTES,
    Call,
    Facts,
    Load,
    call_text,
    offsets_of,
    outputs_text,
    read_call,
    read_outputs,
)
from tandem.protocol.errors import InvalidTensor, TooLarge
from tandem.protocol.tensors import MAX_TENSORS, Datatype

MODEL = "sha256:" + "0" * 64
FACTS: tuple[Facts, ...] = (
    ("x", Datatype.FP32, (2,), 8),
    ("y", Datatype.UINT8, (65,), 65),
    ("z", Datatype.BOOL, (), 1),
)


def test_a_call_is_read_as_it_was_written() -> None:
    text, offsets = call_text(MODEL, FACTS, ("out",))
    call, same = read_call(text)
    assert isinstance(call, Call)
    assert (call.model, call.outputs, [meta.name for meta in call.inputs]) == (MODEL, ("out",), ["x", "y", "z"])
    assert offsets == same == (0, 64, 192)


def test_outputs_are_read_as_they_were_written() -> None:
    layout = read_outputs(outputs_text(FACTS))
    assert [(meta.name, meta.datatype, meta.shape, meta.size) for meta in layout.metas] == list(FACTS)
    assert (layout.offsets, layout.end) == ((0, 64, 192), 193)


def test_tensors_that_fill_a_message_fit_into_a_lane() -> None:
    assert offsets_of([MAX_BODY_BYTES // MAX_TENSORS + 1] * MAX_TENSORS)[1] <= HALF_LANE


@pytest.mark.parametrize(
    "facts",
    [("x", Datatype.FP32, (2,), 7), ("x" * 200, Datatype.UINT8, (1,), 1), ("x", Datatype.UINT8, (2**41,), 2**41)],
)
def test_inputs_out_of_bounds_are_refused(facts: Facts) -> None:
    with pytest.raises(InvalidTensor):
        call_text(MODEL, (facts,), ())


def test_inputs_are_bounded_in_number_and_in_all() -> None:
    with pytest.raises(InvalidTensor, match="at most 64"):
        call_text(MODEL, FACTS * 22, ())
    with pytest.raises(TooLarge, match="send fewer"):
        call_text(MODEL, (("x", Datatype.UINT8, (HALF_LANE + 1,), HALF_LANE + 1),), ())


@pytest.mark.parametrize(
    "outputs",
    [
        [{"name": "x", "datatype": "UINT8", "shape": [4], "size": 5}],
        [{"name": "x", "datatype": "UINT8", "shape": [HALF_LANE + 1], "size": HALF_LANE + 1}],
        [{"name": "x", "datatype": "BYTES", "shape": [1], "size": HALF_LANE + 1}],
        [{"name": f"{number}", "datatype": "UINT8", "shape": [0], "size": 0} for number in range(65)],
        {"name": "x"},
    ],
)
def test_outputs_that_are_none_are_refused(outputs: object) -> None:
    with pytest.raises((ValidationError, InvalidTensor)):
        read_outputs(json.dumps(outputs).encode())


@pytest.mark.parametrize("file", ["../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_file_is_named_by_its_digest_alone(file: str) -> None:
    with pytest.raises(ValidationError):
        Load(model=MODEL, file=file, provider="CPUExecutionProvider")
    with pytest.raises(ValidationError):
        Load(model=MODEL, file="0" * 64, data={"weights.bin": file}, provider="CPUExecutionProvider")
