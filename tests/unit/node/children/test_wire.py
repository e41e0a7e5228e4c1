"""Frames between the daemon and its inference worker."""

import pytest
from pydantic import ValidationError

from node.children.wire import ANSWER, MAX_BODY_BYTES, ORDER, PREFIX, Cancel, Done, Order, Run, head, lengths
from tandem.protocol.codec import MAX_CONTROL_BYTES, MAX_FRAME_BYTES
from tandem.protocol.errors import MalformedMessage
from tandem.protocol.tensors import Datatype, TensorMeta

META = TensorMeta(name="x", datatype=Datatype.FP32, shape=(2,), size=8)


@pytest.mark.parametrize("order", [Run(id=7, model="0" * 64, inputs=(META,), outputs=("y",)), Cancel(id=7)])
def test_an_order_is_read_as_it_was_written(order: Order) -> None:
    frame = head(order, 8)
    text, body = lengths(frame[: PREFIX.size])
    assert (len(frame), body) == (PREFIX.size + text, 8)
    assert ORDER.validate_json(frame[PREFIX.size :]) == order


@pytest.mark.parametrize(
    ("text", "body"), [(MAX_CONTROL_BYTES + 1, 0), (0, MAX_FRAME_BYTES + 1), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_are_bounded(text: int, body: int) -> None:
    with pytest.raises(MalformedMessage, match="at most"):
        lengths(PREFIX.pack(text, body))


@pytest.mark.parametrize("model", ["../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_model_is_named_by_its_digest_alone(model: str) -> None:
    with pytest.raises(ValidationError):
        Run(id=1, model=model, inputs=())


def test_an_answer_of_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError):
        ANSWER.validate_json(b'{"op": "run", "id": 1}')
    with pytest.raises(ValidationError):
        Done(id=1, outputs=(META,) * 65, provider="CPUExecutionProvider", run_us=1, warm=True)


def test_the_largest_outputs_fit_into_one_message_to_the_orchestrator() -> None:
    assert MAX_BODY_BYTES + MAX_CONTROL_BYTES <= MAX_FRAME_BYTES
