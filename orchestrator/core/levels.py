"""What the levels of H.264 and HEVC allow.

Sources: Rec. ITU-T H.264 table A-1, Rec. ITU-T H.265 tables A.8 and A.9 (main tier).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tandem.protocol.media import VideoCodec
from tandem.protocol.units import ceil_div

_MACROBLOCK = 16
_KILO = 1000


@dataclass(frozen=True, slots=True)
class _Level:
    """Macroblocks for H.264, luma samples for HEVC."""

    rate: int
    """A second."""
    picture: int
    kilobits: int
    """A second; of H.264 for the profiles below High."""


_H264 = {
    "1": _Level(1485, 99, 64),
    "1.1": _Level(3000, 396, 192),
    "1.2": _Level(6000, 396, 384),
    "1.3": _Level(11880, 396, 768),
    "2": _Level(11880, 396, 2000),
    "2.1": _Level(19800, 792, 4000),
    "2.2": _Level(20250, 1620, 4000),
    "3": _Level(40500, 1620, 10000),
    "3.1": _Level(108_000, 3600, 14000),
    "3.2": _Level(216_000, 5120, 20000),
    "4": _Level(245_760, 8192, 20000),
    "4.1": _Level(245_760, 8192, 50000),
    "4.2": _Level(522_240, 8704, 50000),
    "5": _Level(589_824, 22080, 135_000),
    "5.1": _Level(983_040, 36864, 240_000),
    "5.2": _Level(2_073_600, 36864, 240_000),
    "6": _Level(4_177_920, 139_264, 240_000),
    "6.1": _Level(8_355_840, 139_264, 480_000),
    "6.2": _Level(16_711_680, 139_264, 800_000),
}
_HEVC = {
    "1": _Level(552_960, 36864, 128),
    "2": _Level(3_686_400, 122_880, 1500),
    "2.1": _Level(7_372_800, 245_760, 3000),
    "3": _Level(16_588_800, 552_960, 6000),
    "3.1": _Level(33_177_600, 983_040, 10000),
    "4": _Level(66_846_720, 2_228_224, 12000),
    "4.1": _Level(133_693_440, 2_228_224, 20000),
    "5": _Level(267_386_880, 8_912_896, 25000),
    "5.1": _Level(534_773_760, 8_912_896, 40000),
    "5.2": _Level(1_069_547_520, 8_912_896, 60000),
    "6": _Level(1_069_547_520, 35_651_584, 60000),
    "6.1": _Level(2_139_095_040, 35_651_584, 120_000),
    "6.2": _Level(4_278_190_080, 35_651_584, 240_000),
}
_TABLES: Mapping[VideoCodec, Mapping[str, _Level]] = {VideoCodec.H264: _H264, VideoCodec.HEVC: _HEVC}


def level_fault(
    codec: VideoCodec, level: str, size: tuple[int, int], frame_rate: Fraction, bitrate: int | None
) -> str | None:
    """Why pictures of this size and rate, with peaks of so many bits a second, are beyond the level; None: they fit."""
    table = _TABLES.get(codec)
    if table is None:
        return f"a level cannot be set for {codec}; leave it out"
    known = table.get(level.removesuffix(".0"))
    if known is None:
        return f"expected a level of {codec} out of {', '.join(table)}, got {level}"
    picture = _picture(codec, size)
    if picture > known.picture:
        return f"level {level} holds no picture of {size[0]}x{size[1]}; ask for {_least(table, picture, frame_rate)}"
    if picture * frame_rate > known.rate:
        rate = f"{float(frame_rate):g} frames a second of {size[0]}x{size[1]}"
        return f"level {level} is too low for {rate}; ask for {_least(table, picture, frame_rate)}"
    if bitrate is not None and bitrate > known.kilobits * _KILO:
        return f"level {level} holds at most {known.kilobits * _KILO} bits a second, got {bitrate} at the peak"
    return None


def _picture(codec: VideoCodec, size: tuple[int, int]) -> int:
    if codec is VideoCodec.H264:
        return ceil_div(size[0], _MACROBLOCK) * ceil_div(size[1], _MACROBLOCK)
    return size[0] * size[1]


def _least(table: Mapping[str, _Level], picture: int, frame_rate: Fraction) -> str:
    enough = (name for name, each in table.items() if picture <= each.picture and picture * frame_rate <= each.rate)
    least = next(enough, None)
    return f"level {least} or none at all" if least else "a smaller picture or fewer frames"
