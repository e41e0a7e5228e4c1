"""Which pictures of a result are compared with the source's, and what difference is too much.

Absolute quality does not tell a cheat: noise at a low bitrate looks no better when it is encoded as asked. Two things
do. A picture that is not the one asked for differs in the means of its parts, which hardly depend on how it was
encoded. And an encoder spends less than it may only on what is nearly perfect already: few bits together with a visible
loss are nobody's honest work. Thresholds and what was measured: docs/transcoding.md.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tandem.inspection.compared import Comparison, Likeness
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Rendition
from tandem.protocol.media import VideoCodec
from tandem.protocol.timing import PICTURE_OFFSET_TICKS, TICKS

_MICRO = 10**6
_SURE_US = 30 * _MICRO
"""A window so long is compared for sure; a shorter one as often as its part of that says."""
_FURTHEST_US = 10 * _MICRO
"""From a keyframe of the source: what is decoded to get to a picture."""
_LEAST_SHARE = 4
"""A fourth of the bitrate."""
_CLEAR_DB: Mapping[VideoCodec, float] = {
    VideoCodec.H264: 40.0,
    VideoCodec.HEVC: 40.0,
    VideoCodec.VP9: 34.0,
    VideoCodec.AV1: 40.0,
}
"""Noise below which a picture may have taken fewer bits, by how good each encoder gets at all."""
_LEAST_DENSITY = Fraction(1, 50)
"""Bits a pixel: with less there may be little left of a picture."""
_SAME_LEVELS = 4.0
_BRIGHTER_LEVELS = 16.0
_CLEARLY, _VAGUELY = Fraction(1, 3), Fraction(4, 5)
"""Of how much the source's parts differ, by how much a result's may differ from them."""
_SMALL = 64
"""Pixels of a side with fewer of which a picture has hardly any parts."""
_COARSE = 3
_ELSEWHERE = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """In microseconds: of the job's time, and where in the source decoding may begin, None: at its beginning."""

    at_us: int
    seek_us: int | None


@dataclass(frozen=True, slots=True)
class Draws:
    """Three random numbers from 0 up to 1."""

    whether: float
    where: float
    how_far: float


def moment(work: TranscodeWork, keyframes: Sequence[int], draws: Draws) -> Moment | None:
    """Which pictures are compared; None: none are, by chance or since they cannot be.

    Any may be, those soon after a keyframe of the source more often, since they cost less.
    """
    if not _is_comparable(work) or (work.window is not None and draws.whether >= work.duration_us / _SURE_US):
        return None
    begin = work.window.start_us if work.window is not None else work.origin_us
    anywhere = begin + int(draws.where * work.duration_us)
    key = _before(keyframes, anywhere)
    far = int(draws.how_far**3 * _FURTHEST_US)
    at = max(begin, min(anywhere, (work.media.origin_us if key is None else key) + far))
    return Moment(at - work.origin_us, _before(keyframes, at))


def _is_comparable(work: TranscodeWork) -> bool:
    """Times must be certain, and nothing be on the picture that is not in the source."""
    return bool(work.video) and work.media.splittable and work.picture.watermark is None


def _before(keyframes: Sequence[int], at: int) -> int | None:
    index = bisect_right(keyframes, at)
    return keyframes[index - 1] if index else None


def comparison(work: TranscodeWork, chosen: Moment, source: Path) -> Comparison:
    video = work.media.video
    return Comparison(
        source=source,
        origin_us=work.origin_us,
        at_us=chosen.at_us,
        seek_us=chosen.seek_us,
        result_us=0 if work.direct else PICTURE_OFFSET_TICKS * _MICRO // TICKS,
        reach_us=_reach_us(work),
        pixels=video.width * video.height if video else 1,
        rotation=video.rotation if video else 0,
    )


def _reach_us(work: TranscodeWork) -> int:
    """By which a picture may be off the source's, where the rate is changed."""
    rates = [each.fps for each in work.video if each.fps is not None]
    gap = work.media.video.longest_us if work.media.video else 0
    return max((_MICRO * per // times for times, per in rates), default=0) + (min(gap, _MICRO) if rates else 0)


Fact = tuple[str, object, object, bool]
"""What is looked at, what was expected, what was found, and whether that will do."""


def judged(work: TranscodeWork, asked: Rendition, found: Likeness) -> Iterator[Fact]:
    if not _is_starved(work, asked):
        vague = work.picture.tone_map or min(asked.width, asked.height) < _SMALL
        same = found.unlike <= max(_SAME_LEVELS, found.spread * (_VAGUELY if vague else _CLEARLY))
        detail = found.unlike <= found.error / _COARSE  # as in noise that takes more bits than there are
        yield "pictures like the source's", "at their times", f"off by {found.unlike:.1f} levels", same or detail
        elsewhere = found.unlike if found.elsewhere is None else found.elsewhere
        there = found.unlike <= max(_SAME_LEVELS, _ELSEWHERE * elsewhere)
        yield "pictures like the source's", "at their times", "those of other times", there
    if not work.picture.tone_map:
        off = abs(found.brightness) <= _BRIGHTER_LEVELS
        yield "brightness off by levels of", f"at most {_BRIGHTER_LEVELS:.0f}", f"{found.brightness:.1f}", off
    if asked.bitrate is not None and not work.picture.tone_map and not work.picture.deinterlace:
        few = max(found.bits, found.group_bits) * _LEAST_SHARE < asked.bitrate
        least = _CLEAR_DB[asked.codec]
        told = f"{found.bits} with noise at {found.decibels:.1f} dB"
        wanted = f"{asked.bitrate}, or a fourth or noise below {least:.0f} dB"
        yield "bits a second", wanted, told, not few or found.decibels >= least


def _is_starved(work: TranscodeWork, asked: Rendition) -> bool:
    bits = asked.bitrate or asked.max_bitrate
    pixels = asked.width * asked.height * work.frames_of(asked)
    return bits is not None and bits * work.duration_us < _LEAST_DENSITY * pixels * _MICRO
