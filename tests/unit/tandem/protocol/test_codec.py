import json
import struct

import pytest

from tandem.protocol.codec import MAX_CONTROL_BYTES, MAX_FRAME_BYTES, Envelope, decode, encode
from tandem.protocol.errors import MalformedMessage, UnknownMessage
from tandem.protocol.messages import Assign, Cancel, Finished, Heartbeat, Payment, Problem, Welcome
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor, TensorMeta
from tests.fixtures.protocol import LIMITS, REF, SHA, inference_work, media, tensor, ticket_params, transcode_work


def assign(work: object, **more: object) -> Assign:
    fields = {"ref": REF, "work": work, "price": 2**200, "start_to_finish": 60, "source_url": "http://o/x"}
    return Assign.model_validate(fields | more)


def test_a_silent_transcode_survives() -> None:
    """What a field says by being null is not lost."""
    envelope = Envelope(assign(transcode_work(media(sound=False))))
    assert decode(encode(envelope)) == envelope


def test_tensors_follow_the_json() -> None:
    given = tensor("x", 1.0, 2.0)
    frame = encode(Envelope(assign(inference_work(given)), (given,)))
    assert isinstance(frame, bytes)
    assert frame.endswith(given.data)
    assert decode(frame).tensors == (given,)


def test_messages_without_tensors_are_text() -> None:
    assert json.loads(encode(Envelope(Cancel(ref=REF, reason="é"))))["type"] == "cancel"


@pytest.mark.parametrize("frame", ['{"type": "gossip", "ref": 1}', '{"type": "' + "x" * 1000 + '"}'])
def test_unknown_types_are_named_shortly(frame: str) -> None:
    with pytest.raises(UnknownMessage) as caught:
        decode(frame)
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"type": 1}',
        '{"type": "heartbeat", "attempts": 3}',
        '{"type": "heartbeat", "attempts": [], "more": 1}',
        '{"type": "progress", "ref": {"task": "job_00000000000000000000000000ff.0", "number": 1}, "permille": 1001}',
        '{"type": "welcome", "heartbeat": NaN, "lease": 1}',
        '{"type": "welcome", "heartbeat": 1, "lease": Infinity}',
        '{"type": "payment_receipt", "id": 9223372036854775808, "accepted": true}',
        b"",
        b"\x05\0\0\0{}",
        b"\x02\0\0\0{}",
        b"\xff\xff\xff\xff{}",
        '{"type": "hello", "' + "x" * 10_000 + '": 1}',
    ],
)
def test_what_is_no_message_is_malformed(frame: str | bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(frame)
    assert len(caught.value.detail) < 4096


def test_the_bound_counts_bytes_on_both_sides() -> None:
    """A message that one side may send is one that the other takes."""
    output = TranscodeOutput(files=(FileResult(name="a", artifact=SHA, size=1),))
    fits = Finished(ref=REF, output=output)
    assert decode(encode(Envelope(fits))).message == fits
    long = Problem.model_construct(type="problem", code="x", detail="é" * (MAX_CONTROL_BYTES // 2), fatal=False)
    with pytest.raises(MalformedMessage, match=f"at most {MAX_CONTROL_BYTES} bytes"):
        encode(Envelope(long))


def test_frames_are_bounded() -> None:
    with pytest.raises(MalformedMessage, match=f"at most {MAX_FRAME_BYTES} bytes"):
        decode(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(MalformedMessage, match=f"at most {MAX_CONTROL_BYTES} bytes"):
        decode(" " * (MAX_CONTROL_BYTES + 1))
    head = json.dumps({"type": "heartbeat"}).encode().ljust(MAX_CONTROL_BYTES + 1)
    with pytest.raises(MalformedMessage, match=f"at most {MAX_CONTROL_BYTES} bytes"):
        decode(struct.pack("<I", len(head)) + head)


def test_too_many_tensor_bytes_are_not_sent() -> None:
    big = Tensor(name="x", datatype=Datatype.UINT8, shape=(MAX_FRAME_BYTES,), data=bytes(MAX_FRAME_BYTES))
    with pytest.raises(MalformedMessage, match="send less at once"):
        encode(Envelope(assign(inference_work(big)), (big,)))


@pytest.mark.parametrize(
    ("meta", "body"),
    [
        ({"size": 8}, bytes(4)),
        ({"size": 4}, bytes(8)),
        ({"size": 8}, bytes(8)),
        ({"size": 4, "shape": (2**39, 2**38)}, bytes(4)),
        ({"size": 4, "datatype": "BYTES"}, b"\x01\0\0\0"),
    ],
    ids=["too few", "too many", "not the shape", "a huge shape", "a length that lies"],
)
def test_tensors_that_contradict_their_description(meta: dict[str, object], body: bytes) -> None:
    described = TensorMeta.model_construct(name="x", datatype=Datatype.FP32, shape=(1,), size=4)
    output = InferenceOutput.model_construct(
        kind="inference", outputs=(described.model_copy(update=meta),), provider="p"
    )
    head = Finished.model_construct(type="finished", ref=REF, output=output).model_dump_json(warnings=False).encode()
    with pytest.raises(MalformedMessage):
        decode(struct.pack("<I", len(head)) + head + body)


def test_tensors_come_only_where_they_are_described() -> None:
    head = Heartbeat().model_dump_json().encode()
    with pytest.raises(MalformedMessage, match="expected 0 bytes of tensors"):
        decode(struct.pack("<I", len(head)) + head + b"x")
    assert decode(struct.pack("<I", len(head)) + head) == Envelope(Heartbeat())


def test_the_largest_welcome_and_payment_fit() -> None:
    welcome = Welcome(heartbeat=1, lease=3, limits=LIMITS, keep=(REF,) * 4096)
    signed = [{"sender_nonce": nonce, "signature": b"s" * 64} for nonce in range(1024)]
    payment = Payment.model_validate({"id": 1, "params": ticket_params(), "tickets": signed})
    for message in (welcome, payment):
        assert decode(encode(Envelope(message))).message == message
