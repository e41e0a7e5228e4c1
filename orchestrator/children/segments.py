"""Pictures and sound cut into segments: CMAF (ISO/IEC 23000-19) or transport streams.

A segment begins with the first keyframe, or the first packet of sound, in its cell of the job's timeline.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from orchestrator.children.boxes import Sample, fragment, segment_type
from orchestrator.children.mp4 import ended, over_at
from orchestrator.children.tracks import UNSAID, add_track, beginning, groups, opened, packets
from orchestrator.core.packaging import Cut, Ending
from tandem.protocol.errors import ResultRejected
from tandem.protocol.media import Color
from tandem.protocol.timing import PICTURE_OFFSET_TICKS, TICKS, SoundSpan

_TRANSPORT = {"mpegts_copyts": "1", "mpegts_flags": "+resend_headers"}
_EARLY = Fraction(1, 1000)
"""Seconds before a cell that still count as in it: times come from files that round them."""
_PACKETS = 50
"""Of sound, in one fragment."""
_ALL = SoundSpan()


def cut_pictures(window: Path, first: Path, cell: Fraction, ending: Ending, name: Callable[[int], Path]) -> list[Cut]:
    """CMAF segments of a window, in the files that `name` gives for their start in ticks.

    `first` is the job's first window, by whose beginning all are played.
    """
    delay, init = delayed_beginning(first)
    cuts: list[Cut] = []
    every = ended([window], init, ending)
    for _, together in groupby(every, key=lambda each: _cell(Fraction(each[0].start, TICKS), cell)):
        with ExitStack() as stack:
            file: BinaryIO | None = None
            for group, until in together:
                if file is None:
                    start = group.start
                    file = stack.enter_context(name(start).open("xb"))
                    file.write(segment_type())
                file.write(fragment(_sequence(group.start), group.samples, group.decoded(until), delay))
                stop = until
        cuts.append(Cut(start=start, duration=stop - start))
    return cuts


def delayed_beginning(window: Path, color: Color = UNSAID) -> tuple[int, bytes]:
    """By how many ticks pictures are stored later than they are shown, so that none is decoded after that; the `moov`.

    That is seen from the first window; in a later one that reorders more, the difference is negative, which is allowed.
    """
    with opened(window) as (_, stream):
        delay = next((each.delay for each in groups(window, beginning(stream))), 0)
        return delay, beginning(stream, delay, color)


def priming(path: Path) -> int:
    """How many ticks of sound are only there to warm a decoder up."""
    with opened(path) as (container, stream):
        return max(0, -(next(packets(container, stream)).pts or 0))


def cut_sound(
    path: Path, first: Path, cell: Fraction, name: Callable[[int], Path], span: SoundSpan = _ALL
) -> list[Cut]:
    """CMAF segments of a window of sound, in ticks of its own. `first` is the first window, as of pictures."""
    skipped = priming(first)
    if priming(path) != skipped:
        raise ResultRejected(f"expected sound that begins as its first window does, {skipped} ticks early")
    with opened(path) as (container, stream):
        heard = _Heard(stream)
        cuts: list[Cut] = []
        every = heard.lasting(sounding(container, stream, span))
        for _, given in groupby(every, key=lambda each: heard.cell(each[0], cell)):
            pieces = list(given)
            start, stop = (pieces[0][0].pts or 0) + skipped, pieces[-1][1] + skipped
            with name(start).open("xb") as file:
                file.write(segment_type())
                for at in range(0, len(pieces), _PACKETS):
                    file.write(_fragment(pieces[at : at + _PACKETS], skipped))
            cuts.append(Cut(start=start, duration=stop - start))
        return cuts


def sounding(container: InputContainer, stream: Stream, span: SoundSpan) -> Iterator["Packet[Any]"]:
    """The packets of a window of sound, at the job's times."""
    sample = Fraction(1, getattr(stream, "sample_rate", 1)) / (stream.time_base or Fraction(1))
    begin, end = (None if edge is None else edge * sample for edge in (span.begin, span.end))
    for packet in packets(container, stream):
        packet.pts, packet.dts = (round((at or 0) + span.first * sample) for at in (packet.pts, packet.dts))
        if (begin is None or packet.pts >= begin) and (end is None or packet.pts < end):
            yield packet


def _fragment(pieces: list[tuple["Packet[Any]", int]], skipped: int) -> bytes:
    samples = [Sample((packet.pts or 0) + skipped, bytes(packet)) for packet, _ in pieces]
    return fragment(_sequence(samples[0].time), samples, [*(each.time for each in samples), pieces[-1][1] + skipped])


@dataclass
class _Heard:
    """Packets of sound with the time at which each is over, in ticks."""

    stream: Stream

    def cell(self, packet: "Packet[Any]", cell: Fraction) -> int:
        return max(0, _cell((packet.pts or 0) * (self.stream.time_base or Fraction(1)), cell))

    def lasting(self, given: Iterator["Packet[Any]"]) -> Iterator[tuple["Packet[Any]", int]]:
        before: Packet[Any] | None = None
        spacing = 1
        for packet in given:
            if before is not None:
                spacing = (packet.pts or 0) - (before.pts or 0)
                if spacing <= 0:
                    raise ResultRejected("expected sound whose times increase, got one that goes back")
                yield before, packet.pts or 0
            before = packet
        if before is not None:
            yield before, (before.pts or 0) + spacing


def cut_transport(
    path: Path, cell: Fraction, ending: Ending, name: Callable[[int], Path], span: SoundSpan = _ALL
) -> list[Cut]:
    """Transport stream segments of a window's pictures, or of sound, in ticks of 1/90000 s."""
    with opened(path) as (container, stream):
        pictures = stream.type == "video"
        offset = 0 if pictures else PICTURE_OFFSET_TICKS
        cutter = _TransportCutter(stream, cell, name)
        for packet in packets(container, stream) if pictures else sounding(container, stream, span):
            ticks = (packet.time_base or Fraction(1)) * TICKS
            packet.pts, packet.dts = (round((at or 0) * ticks) + offset for at in (packet.pts, packet.dts))
            packet.duration, packet.time_base = round((packet.duration or 0) * ticks), Fraction(1, TICKS)
            cutter.add(packet, may_cut=packet.is_keyframe or not pictures)
        return cutter.finish(ending)


@dataclass
class _TransportCutter:
    stream: Stream
    cell: Fraction
    name: Callable[[int], Path]
    starts: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    """Of what is in the segment."""
    _file: OutputContainer | None = None
    _track: Stream | None = None
    _in_cell: int = -1

    def add(self, packet: "Packet[Any]", *, may_cut: bool) -> None:
        time = (packet.pts or 0) - PICTURE_OFFSET_TICKS
        cell = max(0, _cell(Fraction(time, TICKS), self.cell))
        if may_cut and (self._file is None or cell > self._in_cell):
            self._begin(time, cell)
        if self._file is None or self._track is None:
            raise ResultRejected("expected pictures that begin with a keyframe, got others")
        self.times.append(time)
        packet.stream = self._track
        self._file.mux_one(packet)

    def _begin(self, time: int, cell: int) -> None:
        self._close()
        self.starts.append(time)
        self.times = []
        self._in_cell = cell
        self._file = av.open(f"file:{self.name(max(0, time))}", "w", format="mpegts", options=_TRANSPORT)
        self._track = add_track(self._file, self.stream)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self, ending: Ending) -> list[Cut]:
        self._close()
        over = over_at(self.times, ending)
        spans = pairwise([*self.starts, over])  # sound may begin early, with what warms a decoder up
        return [Cut(start=max(0, start), duration=stop - start) for start, stop in spans]


def _cell(time: Fraction, cell: Fraction) -> int:
    return (time + _EARLY) // cell


def _sequence(start: int) -> int:
    """The number of a fragment: increasing, without knowing those before."""
    return start % 2**32
