"""Timelines and keyframes, from plain numbers and bytes."""

from fractions import Fraction

import pytest

from tandem.inspection.keyframes import h264_begins, thin
from tandem.inspection.timeline import Timeline

Packets = list[tuple[int | None, int | None]]
AVCC = bytes([1, 100, 0, 31, 0xFF])


def timeline(packets: Packets) -> Timeline:
    found = Timeline(Fraction(1, 1000))
    for index, (pts, dts) in enumerate(packets):
        found.add(pts, dts, 40, marked=index == 0, begins=index == 0)
    return found


@pytest.mark.parametrize(
    ("packets", "fault", "late"),
    [
        ([(0, -40), (80, 0), (40, 40)], None, 0),
        ([(0, 0), (None, 40)], "packets without a presentation time", 0),
        ([(0, 0), (40, 40), (80, 20)], "times that run backwards", 1),
        ([(0, 0), (40, 40), (20, 20), (30, 30), (80, 80)], "times that run backwards", 2),
        ([(0, 0), (40, 40), (40, 41)], "pictures that are shown at the same time", 1),
    ],
)
def test_what_forbids_splitting(packets: Packets, fault: str | None, late: int) -> None:
    found = timeline(packets)
    found.conclude()
    assert (found.fault, found.late) == (fault, late)


@pytest.mark.parametrize(
    ("times", "varies"), [([0, 40, 80], False), ([0, 33, 67, 100], False), ([0, 40, 85], True), ([0], False)]
)
def test_a_rate_is_variable_beyond_rounding(times: list[int], varies: bool) -> None:
    assert timeline([(time, time) for time in times]).conclude() is varies


def test_pictures_before_the_first_keyframe_are_not_counted() -> None:
    found = Timeline(Fraction(1, 1000))
    for time, marked in ((0, False), (80, True), (40, False), (120, False)):
        found.add(time, time, 40, marked=marked, begins=marked)
    assert (found.frames, found.start, found.span, found.keys) == (2, 80, Fraction(80, 1000), [80])


@pytest.mark.parametrize(
    ("units", "begins"),
    [
        ([b"\x09\xf0", b"\x67\x64", b"\x65\x88"], True),
        ([b"\x06\x06\x01\xc4\x80", b"\x41\x9a"], True),
        ([b"\x06\x06\x01\x44\x80", b"\x41\x9a"], False),
        ([b"\x06\x05\x02ab\x06\x01\x80\x80", b"\x41\x9a"], True),
        ([b"\x41\x9a", b"\x65\x88"], False),
        ([b"\x06"], False),
        ([], False),
    ],
    ids=["idr", "recovery point", "refresh", "second message", "slice", "short", "nothing"],
)
def test_where_h264_can_begin(units: list[bytes], begins: bool) -> None:
    assert h264_begins(b"".join(b"\0\0\1" + unit for unit in units), b"") is begins
    assert h264_begins(b"".join(len(unit).to_bytes(4) + unit for unit in units), AVCC) is begins


def test_close_keyframes_are_thinned() -> None:
    assert thin([0, 10, 20, 35, 5], 10, 100) == [0, 10, 20, 35]
    assert thin(list(range(10)), 1, 5) == [0, 2, 4, 6, 8]
