"""Every message survives its frame, and no frame breaks the decoder."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.protocol.codec import MAX_CONTROL_BYTES, Envelope, Frame, decode, encode
from tandem.protocol.errors import MalformedMessage, ProtocolError, UnknownMessage
from tandem.protocol.messages import Assign
from tests.property.strategies import assigns, envelopes, transcodes, with_tensors

modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(frame: Frame) -> bool:
    """Whether a frame decodes; anything but the two named errors is raised."""
    try:
        decode(frame)
    except (MalformedMessage, UnknownMessage):
        return False
    return True


@modest
@given(envelopes)
def test_messages_survive_their_frame(envelope: Envelope) -> None:
    assert decode(encode(envelope)) == envelope


@modest
@given(assigns(transcodes))
def test_what_is_absent_stays_absent(assign: Assign) -> None:
    assert decode(encode(Envelope(assign))).message == assign


@modest
@given(with_tensors())
def test_tensors_travel_in_binary_frames_byte_for_byte(envelope: Envelope) -> None:
    frame = encode(envelope)
    assert isinstance(frame, bytes) is bool(envelope.tensors)
    if isinstance(frame, bytes):
        (length,) = struct.unpack_from("<I", frame)
        assert frame[4 + length :] == b"".join(tensor.data for tensor in envelope.tensors)


@modest
@given(st.text() | st.binary())
def test_no_frame_breaks_the_decoder(frame: Frame) -> None:
    assert not survives(frame)


@modest
@given(envelopes, st.data())
def test_a_frame_cut_short_is_malformed(envelope: Envelope, data: st.DataObject) -> None:
    frame = encode(envelope)
    assert not survives(frame[: data.draw(st.integers(0, len(frame) - 1))])


@modest
@given(envelopes, st.data())
def test_a_damaged_frame_is_a_message_or_a_named_error(envelope: Envelope, data: st.DataObject) -> None:
    frame = encode(envelope)
    at = data.draw(st.integers(0, len(frame) - 1))
    if isinstance(frame, str):
        survives(frame[:at] + data.draw(st.characters(exclude_categories=["Cs"])) + frame[at + 1 :])
    else:
        survives(frame[:at] + bytes([data.draw(st.integers(0, 255))]) + frame[at + 1 :])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@modest
@given(envelopes, st.data())
def test_any_json_in_any_field_is_a_message_or_a_named_error(envelope: Envelope, data: st.DataObject) -> None:
    fields = json.loads(envelope.message.model_dump_json())
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(values)
    survives(json.dumps(fields))


@given(st.sampled_from(["[", '{"a":', '{"type":"hello","features":[', "[{}"]))
def test_depth_is_bounded(opening: str) -> None:
    deep = opening * (MAX_CONTROL_BYTES // len(opening))
    with pytest.raises(ProtocolError):
        decode(deep)
