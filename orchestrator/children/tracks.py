"""Pictures and sound of a job's intermediate files, as the samples of a track."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from orchestrator.children.boxes import Sample, with_edit
from orchestrator.ports.packaging import Words
from tandem.inspection.names import color_numbers
from tandem.protocol.errors import ResultRejected
from tandem.protocol.media import Color
from tandem.protocol.timing import PICTURE_OFFSET_TICKS, TICKS

START_CODES = ("h264", "hevc")
"""Codecs whose units come with start codes in transport streams, and with their length in MP4."""

_FRAGMENTED = {"movflags": "empty_moov+default_base_moof+skip_trailer", "video_track_timescale": str(TICKS)}
_FORMATS = "mpegts,ivf,mov,webvtt"
_AV1_DELIMITER = b"\x12\x00"
UNSAID = Color()
"""Nothing but what the stream says itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures from a keyframe up to the next one, in the order in which they are decoded."""

    samples: tuple[Sample, ...]

    @property
    def start(self) -> int:
        return self.samples[0].time

    @property
    def delay(self) -> int:
        """The longest time by which one is decoded after it is shown, in ticks."""
        return max(at - sample.time for sample, at in zip(self.samples, self.decoded(0), strict=False))

    def decoded(self, end: int) -> list[int]:
        """When each is decoded, and when the last one is over.

        The n-th is decoded at the n-th of all times at which one is shown: so decoding keeps pace with what is shown,
        whatever delay an encoder had, and what other encoders made goes on from here.
        """
        return [*sorted(sample.time for sample in self.samples), end]


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, Stream]]:
    """The file with the one stream that is in it."""
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        with av.open(f"file:{path}", "r", options=options) as container:
            yield container, container.streams[0]
    except (av.error.FFmpegError, IndexError) as error:
        raise ResultRejected(f"expected a file that can be put together with others, got {error}") from error


def packets(container: InputContainer, stream: Stream) -> Iterator["Packet[Any]"]:
    """Those with data; each has a time. The ones that only warm a decoder up are among them, at times below 0."""
    for packet in container.demux(stream):
        if packet.size:
            if packet.pts is None or packet.dts is None:
                raise ResultRejected("expected a time for every picture and sound, got one without")
            yield packet


def beginning(stream: Stream, skipped: int = 0, color: Color = UNSAID) -> bytes:
    """What a fragmented MP4 of the stream begins with; it is shown from `skipped` ticks on."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=_FRAGMENTED) as container:
        add_track(container, stream, color)
        container.start_encoding()
    return with_edit(buffer.getvalue(), skipped) if skipped else buffer.getvalue()


def add_track(container: Any, stream: Stream, color: Color = UNSAID) -> Stream:
    """`color`: what is to be said of it, whatever the stream says."""
    track: Stream = container.add_stream_from_template(stream, opaque=True)
    for name, number in color_numbers(color).items():
        setattr(track.codec_context, name, number)
    if stream.codec_context.name == "hevc":
        track.codec_context.codec_tag = "hvc1"  # the other one is not played by Apple's
    return track


def say_language(track: Stream, words: Words) -> None:
    if words.language:
        track.metadata["language"] = words.language


def groups(path: Path, init: bytes) -> Iterator[Group]:
    """The pictures of a window. `init` has the parameter sets that samples need not repeat.

    Raises ResultRejected for pictures that lead their keyframe, or a file that does not begin with one.
    """
    with opened(path) as (container, stream):
        convert = _converter(stream.codec_context.name, init)
        samples: list[Sample] = []
        for packet in packets(container, stream):
            time = (packet.pts or 0) - PICTURE_OFFSET_TICKS
            if packet.is_keyframe and samples:
                yield _closed(samples)
                samples = []
            samples.append(Sample(time, convert(bytes(packet)), packet.is_keyframe))
        if samples:
            yield _closed(samples)


def _closed(samples: list[Sample]) -> Group:
    times = {sample.time for sample in samples}
    if not samples[0].key or min(times) != samples[0].time or samples[0].time < 0 or len(times) != len(samples):
        raise ResultRejected("expected GOPs that are closed, each from a keyframe on, got another one")
    return Group(tuple(samples))


def _converter(codec: str, init: bytes) -> Callable[[bytes], bytes]:
    match codec:
        case "h264":
            return lambda data: _prefixed(data, init, lambda head: head & 31, {7, 8}, {9})
        case "hevc":
            return lambda data: _prefixed(data, init, lambda head: head >> 1 & 63, {32, 33, 34}, {35})
        case "libdav1d" | "av1":
            return lambda data: data.removeprefix(_AV1_DELIMITER)
        case _:
            return bytes


def _prefixed(data: bytes, init: bytes, kind: Callable[[int], int], sets: set[int], delimiters: set[int]) -> bytes:
    """Units with their length in front instead of start codes; without delimiters and sets that the file begins with.

    Sets that differ, since another encoder made the window, stay with their pictures.
    """
    parts: list[bytes] = []
    for piece in data.split(b"\0\0\1")[1:]:
        unit = piece.rstrip(b"\0")
        if not unit or kind(unit[0]) in delimiters or (kind(unit[0]) in sets and unit in init):
            continue
        parts += (len(unit).to_bytes(4), unit)
    return b"".join(parts)
