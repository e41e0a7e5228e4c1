"""Windows, sounds and captions put together to one MP4, by copying."""

import heapq
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream

from orchestrator.children.texts import add_text, text_packets
from orchestrator.children.tracks import (
    START_CODES,
    Group,
    add_track,
    beginning,
    groups,
    opened,
    packets,
    say_language,
)
from orchestrator.core.packaging import Ending
from orchestrator.ports.packaging import Joining
from tandem.protocol.timing import TICKS

_OPTIONS = {"movflags": "+faststart", "video_track_timescale": str(TICKS)}
_CLOSE = 10
_LONE = TICKS // 25
"""Ticks that a picture is shown that has no other near it."""


@dataclass(frozen=True, slots=True)
class Picked:
    """A packet for the file, to be sorted by when it is decoded, in seconds."""

    at: Fraction
    packet: "Packet[Any]"


def put_together(order: Joining) -> None:
    """Writes its `target`."""
    with ExitStack() as stack:
        _, template = stack.enter_context(opened(order.windows[0]))
        init = beginning(template)
        if template.codec_context.name in START_CODES:  # what replaces them needs another description
            template = stack.enter_context(av.open(io.BytesIO(init), "r", format="mp4")).streams[0]
        given = [stack.enter_context(opened(sound.path)) for sound in order.sounds]
        file = stack.enter_context(av.open(f"file:{order.target}", "w", format="mp4", options=_OPTIONS))
        tracks = [add_track(file, template, order.color), *(add_track(file, stream) for _, stream in given)]
        for sound, track in zip(order.sounds, tracks[1:], strict=True):
            say_language(track, sound)
        others = [_placed(packets(*each), track) for each, track in zip(given, tracks[1:], strict=True)]
        # All tracks are there before the first packet is.
        captions = [(text, add_text(file, text)) for text in order.texts]
        others += [_placed(text_packets(text), track) for text, track in captions]
        pictures = _pictures(order.windows, init, order.ending, tracks[0])
        for picked in heapq.merge(pictures, *others, key=lambda each: each.at):
            file.mux_one(picked.packet)


def _pictures(windows: Sequence[Path], init: bytes, ending: Ending, track: Stream) -> Iterator[Picked]:
    delay = max(group.delay for path in windows for group in groups(path, init))
    for group, until in ended(windows, init, ending):
        for sample, (start, stop) in zip(group.samples, pairwise(group.decoded(until)), strict=True):
            packet = Packet(sample.data)
            packet.pts, packet.dts, packet.duration = sample.time, start - delay, stop - start
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, TICKS), sample.key, track
            yield Picked(Fraction(packet.dts, TICKS), packet)


def ended(windows: Sequence[Path], init: bytes, ending: Ending) -> Iterator[tuple[Group, int]]:
    """Each group with the time at which its last picture is over."""
    last: Group | None = None
    for group in (group for path in windows for group in groups(path, init)):
        if last is not None:
            yield last, group.start
        last = group
    if last is not None:
        yield last, over_at([sample.time for sample in last.samples], ending)


def over_at(times: Sequence[int], ending: Ending) -> int:
    """When the last of some is over."""
    first, last = min(times), max(times)
    if ending.at is not None and ending.at > last:
        return ending.at
    mean = Fraction(last - first, len(times) - 1) if last > first else None
    if ending.spacing is not None and (mean is None or abs(mean - ending.spacing) < mean / _CLOSE):
        return last + ending.spacing
    return last + (_LONE if mean is None else round(mean))


def _placed(given: Iterator["Packet[Any]"], track: Stream) -> Iterator[Picked]:
    for packet in given:
        at = (packet.dts or 0) * (packet.time_base or Fraction(0))
        packet.stream = track
        yield Picked(at, packet)
