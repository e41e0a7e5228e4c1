"""How like pictures of a result are to the source's at the same time.

What is compared is luma, scaled as the result is: the whole picture for distortion, and means of its parts for whether
it is the same picture at all, which hardly depends on how well it was encoded. The measures are judged elsewhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import log10, sqrt
from statistics import mean
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import VideoFrame

from tandem.inspection.accepted import DEMUXER_OPTIONS
from tandem.inspection.compared import BEST_DB, Comparison, Likeness
from tandem.inspection.sample import Sample

Plane = np.ndarray[Any, np.dtype[np.float32]]

_PARTS = (18, 32)
"""Down and across, of which means are taken."""
_AWAY_US = 400_000
"""How far another picture of the source is from the one that is meant."""
_AROUND_US = 900_000
"""Before and after, in which others are looked at."""
_LATER = 3
"""Pictures after those of the time itself that may be meant too."""
_APART_US = 200_000
"""Of those."""
_SAME_US = 60_000
"""By which times may be off: they are looked at elsewhere."""
_SIDE = 10
"""Pixels of a part, of a picture that is made small first."""
_FORMAT = "yuv420p"
_BITS = 8
_COARSE_SEEKERS = ("mpegts", "mpeg")
_COARSE_US = 500_000
_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of the source, at a time of the job."""

    us: int
    parts: Plane
    frame: VideoFrame | None
    """None: it is not one of those that are meant, and would only take up memory."""


def pictures(asked: Comparison) -> list[Shown]:
    """The source's around the time, all that may be meant among them; none: it cannot be read there."""
    found: list[Shown] = []
    off, later = asked.reach_us + _SAME_US, 0
    before: tuple[int, VideoFrame] | None = None
    with suppress(av.error.FFmpegError):  # what was decoded until then will do
        for us, frame in _decoded(asked):
            if us > asked.at_us + _AROUND_US and later == _LATER:
                break
            before = (us, frame) if us <= asked.at_us else before
            meant = us >= asked.at_us - off and later < _LATER
            later += meant and us > asked.at_us + off
            if meant or (us >= asked.at_us - _AROUND_US and (not found or us - found[-1].us >= _APART_US)):
                found.append(Shown(us, _parts(frame, asked.rotation), frame if meant else None))
    if before is not None and not any(each.frame for each in found):  # it is shown for long
        found.append(Shown(before[0], _parts(before[1], asked.rotation), before[1]))
    return found


def _decoded(asked: Comparison) -> Iterator[tuple[int, VideoFrame]]:
    with av.open(f"file:{asked.source}", "r", options=DEMUXER_OPTIONS, metadata_errors="replace") as container:
        stream = next(each for each in container.streams.video if not each.disposition & Disposition.attached_pic)
        stream.codec_context.thread_count = 1
        if asked.seek_us is not None:
            early = _COARSE_US if container.format.name in _COARSE_SEEKERS else 0
            tick = Fraction(stream.time_base or 1) * _MICRO
            container.seek(int((asked.seek_us - early) / tick), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and not frame.is_corrupt:
                yield _us(frame) - asked.origin_us, frame


def likeness(asked: Comparison, source: Sequence[Shown], sample: Sample, duration_us: int) -> Likeness | None:
    """None: there is nothing to compare."""
    if not (source and sample.frames):
        return None
    measured = [_measured(asked, source, us - asked.result_us, frame) for us, frame in sample.frames]
    others = [each.elsewhere for each in measured if each.elsewhere is not None]
    error = sqrt(mean(each.error**2 for each in measured))
    return Likeness(
        decibels=min(BEST_DB, 20 * log10(255 / max(error, 1e-3))),
        error=error,
        unlike=mean(each.unlike for each in measured),
        spread=mean(each.spread for each in measured),
        brightness=mean(each.brightness for each in measured),
        elsewhere=min(others, default=None),
        group_bits=_rate(sample.group_bytes, sample.group_us),
        bits=_rate(sample.bytes, duration_us),
    )


def _rate(size: int, duration_us: int) -> int:
    return size * 8 * _MICRO // max(1, duration_us)


class _Measured(NamedTuple):
    error: float
    unlike: float
    spread: float
    brightness: float
    elsewhere: float | None


def _measured(asked: Comparison, source: Sequence[Shown], us: int, frame: VideoFrame) -> _Measured:
    """Compared with those of its time, of which the most alike counts."""
    shown, parts = _luma(frame), _parts(frame, 0)
    off = max(asked.reach_us, min(abs(each.us - us) for each in source))
    alike = min((e for e in source if abs(e.us - us) <= off), key=lambda each: _unlike(each.parts, parts))
    elsewhere = [_unlike(each.parts, parts) for each in source if abs(each.us - us) >= off + _AWAY_US]
    return _Measured(
        error=0.0 if alike.frame is None else _error(_scaled(alike.frame, frame, asked.rotation), shown),
        unlike=_unlike(alike.parts, parts),
        spread=float(alike.parts.std()),
        brightness=float(parts.mean() - alike.parts.mean()),
        elsewhere=min(elsewhere, default=None),
    )


def _unlike(expected: Plane, got: Plane) -> float:
    """What is left of the expected parts after the others, brighter or darker, with more contrast or less, and turned
    over, since sources may say that they are mirrored.
    """
    return min(_left(expected, got[::down, ::across]) for down, across in product((1, -1), repeat=2))


def _left(expected: Plane, got: Plane) -> float:
    one, other = expected - expected.mean(), got - got.mean()
    energy = float((other * other).sum())
    factor = max(0.0, float((one * other).sum()) / energy) if energy else 0.0
    return float(np.sqrt(np.mean((one - factor * other) ** 2)))


def _error(expected: Plane, got: Plane) -> float:
    turned = (got[::down, ::across] for down, across in product((1, -1), repeat=2))
    return min(float(np.sqrt(np.mean((expected - each) ** 2))) for each in turned)


def _us(frame: VideoFrame) -> int:
    return round((frame.pts or 0) * Fraction(frame.time_base or 1) * _MICRO)


def _scaled(frame: VideoFrame, like: VideoFrame, rotation: int) -> Plane:
    """Luma of a picture of the source, turned, in the size of another."""
    size = (like.height, like.width) if rotation % 180 else (like.width, like.height)
    return _turned(_luma(frame.reformat(*size, _FORMAT, dst_color_range="MPEG")), rotation)


def _parts(frame: VideoFrame, rotation: int) -> Plane:
    """Means of its parts."""
    down, across = (each * _SIDE for each in _PARTS)
    size = (down, across) if rotation % 180 else (across, down)
    small = frame.reformat(*size, _FORMAT, dst_color_range="MPEG", interpolation="AREA")
    plane = _turned(_luma(small), rotation)
    found: Plane = plane.reshape(_PARTS[0], _SIDE, _PARTS[1], _SIDE).mean(axis=(1, 3))
    return found


def _turned(plane: Plane, rotation: int) -> Plane:
    return np.rot90(plane, -rotation // 90)


def _luma(frame: VideoFrame) -> Plane:
    """In levels of 8 bits."""
    if frame.format.components[0].bits > _BITS:
        frame = frame.reformat(format=_FORMAT)
    plane = frame.planes[0]
    rows: Plane = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size).astype(np.float32)
    return rows[:, : plane.width]
