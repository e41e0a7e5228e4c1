"""FFmpeg's names for the numbers that PyAV gives (Rec. ITU-T H.273)."""

import re
from collections.abc import Mapping

from tandem.protocol.media import Color

_TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
}
_RANGES = {1: "tv", 2: "pc"}
BOTTOM_FIRST = (3, 5)
"""Of FFmpeg's field orders, those whose bottom field is shown first."""
_UNKNOWN_LANGUAGES = {"und", "unknown"}


def color(transfer: int, primaries: int, matrix: int, levels: int) -> Mapping[str, str | None]:
    return {
        "transfer": _TRANSFERS.get(transfer),
        "primaries": _PRIMARIES.get(primaries),
        "matrix": _MATRICES.get(matrix),
        "range": _RANGES.get(levels),
    }


def color_numbers(color: Color) -> Mapping[str, int]:
    """What is known of a color, as attributes of PyAV's contexts."""
    said = (
        ("color_trc", _TRANSFERS, color.transfer),
        ("color_primaries", _PRIMARIES, color.primaries),
        ("colorspace", _MATRICES, color.matrix),
        ("color_range", _RANGES, color.range),
    )
    return {name: number for name, table, word in said for number, known in table.items() if known == word}


def language(tag: str | None) -> str | None:
    """The primary part of a tag such as `en-GB`; None where it says nothing."""
    found = re.match(r"[a-z]{2,8}\b", (tag or "").lower())
    return found[0] if found and found[0] not in _UNKNOWN_LANGUAGES else None
