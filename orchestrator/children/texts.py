"""WebVTT as a text track of an MP4: 3GPP timed text, which players and editors of MP4 take (3GPP TS 26.245)."""

import re
from collections.abc import Iterator
from fractions import Fraction
from html import unescape
from typing import Any

from av.packet import Packet
from av.stream import Stream

from orchestrator.children.tracks import opened, packets, say_language
from orchestrator.ports.packaging import Words

_TICK = Fraction(1, 1000)
_TAG = re.compile(r"<[^>]*>")
_LONGEST = 2**12
"""Bytes of a caption: no screen has room for more."""
_AT_ONCE = 8
_STYLES = (
    "[V4+ Styles]\n"
    "Format: Name, Fontname, Fontsize, PrimaryColour, Alignment, Encoding\n"
    "Style: Default,Arial,16,&Hffffff,2,0\n"
)
"""What the description of the track is made from."""

Cue = tuple[int, int, str]
"""From and until when it is shown, in milliseconds."""


def add_text(file: Any, text: Words) -> Stream:
    """A track for it."""
    track: Stream = file.add_stream("mov_text")
    context: Any = track.codec_context
    track.time_base = context.time_base = _TICK
    context.subtitle_header = _STYLES.encode()
    say_language(track, text)
    return track


def text_packets(text: Words) -> Iterator["Packet[Any]"]:
    """One for each time in which the same is shown, also for those in which nothing is."""
    for start, end, shown in apart(_cues(text)):
        words = shown.encode()[:_LONGEST].decode(errors="ignore").encode()
        packet = Packet(len(words).to_bytes(2) + words)
        packet.pts = packet.dts = start
        packet.duration, packet.time_base = end - start, _TICK
        yield packet


def _cues(text: Words) -> list[Cue]:
    with opened(text.path) as (container, stream):
        found = []
        for packet in packets(container, stream):
            start = max(0, packet.pts or 0)
            words = unescape(_TAG.sub("", bytes(packet).decode(errors="ignore")))
            found.append((start, start + (packet.duration or 0), words))
        return sorted(found)


def apart(cues: list[Cue]) -> Iterator[Cue]:
    """Cues in the order of their beginning, with no time at which there are two, or none."""
    shown: list[Cue] = []
    at = 0
    for cue in (*cues, None):
        until = cue[0] if cue is not None else max((end for _, end, _ in shown), default=at)
        while at < until:
            shown = [each for each in shown if each[1] > at]
            end = min([until, *(each[1] for each in shown)])
            yield at, end, "\n".join(words for _, _, words in shown[-_AT_ONCE:])
            at = end
        if cue is not None:
            shown = [*shown, cue][-_AT_ONCE:]
