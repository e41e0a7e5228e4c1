"""Main of the child process that probes media with PyAV: every packet is read, and one frame decoded."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tandem.inspection import names
from tandem.inspection.accepted import (
    AUDIO_DECODERS,
    DEMUXER_OPTIONS,
    MAX_PIXELS,
    SUBTITLE_DECODERS,
    VIDEO_DECODERS,
)
from tandem.inspection.answer import answer
from tandem.inspection.boxes import is_fragmented
from tandem.inspection.jumps import Mender
from tandem.inspection.keyframes import h264_begins, thin
from tandem.inspection.proof import Proof, SoundProof
from tandem.inspection.sample import Sample
from tandem.inspection.timeline import MAX_FRAMES, NO_TIMES, Timeline
from tandem.protocol.errors import UnreadableMedia
from tandem.protocol.media import MAX_KEYFRAMES

_MICRO = 10**6
_MAX_DENOMINATOR = 1_001_000
_QUARTER_TURN = 90
_SNIFFED_BYTES = 1024
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_KEYFRAME_SPACING_US = 250_000
_LOOKED_AT = 24
"""Frames that are decoded, to see what only frames tell."""
_LOOKED_AT_PACKETS = 64
_PROBED_BYTES = 5_000_000
"""So many FFmpeg may read before it begins, to find out what a file holds."""
_JUMPS = "a clock that jumps"
_FIELDS = "fields that come apart"
_AVI = "an AVI with B-frames, whose times are guesses"
_GUESSED = (_FIELDS, _AVI, NO_TIMES)
_ONE_IN = 8
"""Frames that may not be shown, where times are guesses, or as good as: far more than was ever seen to be lost."""
_LOOKING_SECONDS = 5.0
"""Of processor time."""


def probe(path: Path, *, thorough: bool = False, sample: Sample | None = None) -> dict[str, Any]:
    """The fields of a Source; raises UnreadableMedia.

    `thorough`: also if pictures cannot be decoded that are chosen at random, or the last ones; see `proof`.
    `sample` takes those that it wants then.
    """
    if path.stat().st_size == 0:
        raise UnreadableMedia("expected a media file, got an empty one; upload it again")
    try:
        with av.open(f"file:{path}", "r", options=DEMUXER_OPTIONS, metadata_errors="replace") as container:
            return _facts(container, path, sample, thorough=thorough)
    except av.error.FFmpegError as error:
        raise UnreadableMedia(f"expected a media file such as MP4, Matroska or MPEG-TS, got {_guess(path)}") from error


def _facts(container: InputContainer, path: Path, sample: Sample | None, *, thorough: bool) -> dict[str, Any]:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    sounds = list(container.streams.audio)
    if not pictures and not any(_decodable(each, AUDIO_DECODERS) for each in sounds):
        raise UnreadableMedia("expected a video or an audio stream, got a file with neither that can be decoded")
    video = _Looked(pictures[0], Proof(pictures[0], sample) if thorough else None) if pictures else None
    if thorough and len(container.streams) != len(pictures[:1]) + len(sounds):
        raise UnreadableMedia("expected pictures and sound alone, got other streams beside them")
    spans = {stream.index: _Span(stream, SoundProof(stream) if thorough else None) for stream in sounds}
    clock = Mender(container.format.name)
    places = _read(container, video, spans, clock)
    audio = [_sound(stream, spans[stream.index]) for stream in sounds]
    media = {
        "format": container.format.name,
        "duration_us": round((video.timeline.span if video else Fraction(container.duration or 0, _MICRO)) * _MICRO),
        "audio": audio,
        "subtitles": [_subtitle(stream) for stream in container.streams.subtitles],
        "video": video.describe(jumps=clock.jumped) if video else None,
        "unsplittable": _JUMPS if clock.jumped else video.timeline.fault if video else None,
        "jumps": clock.jumped,
    }
    keyframes = video.keyframes() if video and not clock.jumped else []
    layout = None
    if video is not None and video.in_order and "mp4" in container.format.name and not is_fragmented(path):
        layout = _layout(video, keyframes, *places)
    counts = [span.proof.conclude() for span in spans.values() if span.proof is not None]
    return {"media": media, "keyframes": keyframes, "layout": layout, "sounds": [dict(each) for each in counts]}


def _layout(video: "_Looked", keyframes: Sequence[int], first: int, end: int) -> dict[str, Any]:
    """Of a file that one index describes, as it does in MP4 and MOV that are not fragmented."""
    places = [video.places[time] for time in keyframes]
    second = places[1] if len(places) > 1 else end
    return {"head": min(second, first + _PROBED_BYTES), "tail": end, "places": places}


def _decodable(stream: Stream, decoders: tuple[str, ...]) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in decoders


@dataclass
class _Span:
    """When a stream begins and ends, in its own ticks."""

    stream: AudioStream
    proof: SoundProof | None = None
    start: int | None = None
    end: int = 0

    def add(self, packet: "Packet[Any]") -> None:
        if self.proof is not None and packet.size:
            self.proof.add(packet)
        if packet.pts is not None and not packet.is_discard:
            self.start = packet.pts if self.start is None else self.start
            self.end = max(self.end, packet.pts + (packet.duration or 0))


def _sound(stream: AudioStream, span: _Span) -> dict[str, Any]:
    tick = stream.time_base or Fraction(1, _MICRO)
    # Where the file says that the first samples are only there to warm the decoder up, its own start is the later one.
    start = max(span.start or 0, span.start or 0 if stream.start_time is None else stream.start_time)
    known = stream.codec_context is not None
    return {
        "codec": stream.codec_context.codec.canonical_name if known else "unknown",
        "channels": max(1, stream.channels) if known else 1,
        "layout": stream.layout.name if known else "",
        "sample_rate": max(1, stream.sample_rate) if known else 1,
        "decodable": _decodable(stream, AUDIO_DECODERS) and bool(stream.channels and stream.sample_rate),
        "language": names.language(stream.language),
        "default": bool(stream.disposition & Disposition.default),
        "start_us": round(start * tick * _MICRO),
        "duration_us": max(0, round((span.end - start) * tick * _MICRO)),
    }


def _subtitle(stream: SubtitleStream) -> dict[str, Any]:
    context = stream.codec_context
    return {
        "codec": context.codec.canonical_name if context is not None else "unknown",
        "language": names.language(stream.language),
        "text": _decodable(stream, SUBTITLE_DECODERS),
    }


@dataclass
class _Looked:
    """A video stream that has been read to its end."""

    stream: VideoStream
    proof: Proof | None = None
    timeline: Timeline = field(init=False)
    frames: list[VideoFrame] = field(default_factory=list)
    """The first ones, decoded."""
    fed: int = 0
    """Packets that went into decoding them …"""
    decoded: int = 0
    """… and frames that came out, of which not all are kept."""
    places: dict[int, int] = field(default_factory=dict)
    """Where in the file its keyframes are, by their time in µs."""
    in_order: bool = True
    """Whether its packets follow each other in the file as they are decoded."""
    _place: int = -1

    def __post_init__(self) -> None:
        stream = self.stream
        if not _decodable(stream, VIDEO_DECODERS):
            codec = stream.codec_context.codec.name if stream.codec_context else "an unknown codec"
            raise UnreadableMedia(f"expected a video codec such as H.264, HEVC, VP9 or AV1, got {codec}")
        if stream.width * stream.height > MAX_PIXELS:
            raise UnreadableMedia(f"expected at most {MAX_PIXELS} pixels a picture, got {stream.width}x{stream.height}")
        stream.codec_context.thread_count = 1
        self.timeline = Timeline(stream.time_base or Fraction(1, _MICRO))
        self._format = stream.container.format.name
        self._h264 = stream.codec_context.codec.canonical_name == "h264"
        self._extradata = bytes(stream.codec_context.extradata or b"")

    def add(self, packet: "Packet[Any]") -> None:
        if self._curious():
            self._decode(packet)
        if packet.is_discard:
            self.timeline.decoding |= packet.is_keyframe
        if not packet.size or packet.is_discard:
            return
        if self.proof is not None:
            self.proof.add(packet)
        marked, place = packet.is_keyframe, -1 if packet.pos is None else packet.pos
        self.in_order, self._place = self.in_order and place > self._place, place
        begins = marked and (not self._h264 or h264_begins(bytes(packet), self._extradata))
        self.timeline.add(packet.pts, packet.dts, packet.duration or 0, marked=marked, begins=begins)
        if begins and packet.pts is not None:
            self.places.setdefault(self._us(packet.pts), place)
        if self.timeline.frames > MAX_FRAMES:
            raise UnreadableMedia(f"expected at most {MAX_FRAMES} frames, got more; cut the file into parts")

    def _curious(self) -> bool:
        """Fields that come apart show only once there are more packets than a decoder holds back."""
        apart = self._h264 and self._interlaced
        enough = self.fed >= _LOOKED_AT_PACKETS if apart else len(self.frames) >= _LOOKED_AT
        enough |= self.proof is not None  # of a result one frame tells all that is asked
        return not self.frames or not (enough or time.process_time() > _LOOKING_SECONDS)

    def _decode(self, packet: "Packet[Any]") -> None:
        self.fed += 1
        try:
            frames = self.stream.decode(packet)
        except av.error.FFmpegError:  # a damaged packet; a later one may do
            return
        self.decoded += len(frames)
        self.frames += frames
        self.frames[1:-_LOOKED_AT] = []

    @property
    def _interlaced(self) -> bool:
        return any(frame.interlaced_frame for frame in self.frames)

    @property
    def _fields_apart(self) -> bool:
        return self._h264 and self._interlaced and self.fed >= _LOOKED_AT_PACKETS and 2 * self.decoded <= self.fed

    def keyframes(self) -> list[int]:
        spacing = _KEYFRAME_SPACING_US if self.proof is None else 0
        return thin([self._us(time) for time in self.timeline.keys], spacing, MAX_KEYFRAMES)

    def _us(self, time: int) -> int:
        return round(time * self.timeline.tick * _MICRO)

    def describe(self, *, jumps: bool) -> dict[str, Any]:
        if not self.frames:
            raise UnreadableMedia(
                "expected a decodable video stream, got one without a single frame; is the upload complete?"
            )
        if self.proof is not None:
            self.proof.conclude()
        stream, timeline, frame = self.stream, self.timeline, self.frames[0]
        if self._fields_apart:
            timeline.frames //= 2
            timeline.fault = _FIELDS
        elif self._format == "avi" and stream.codec_context.has_b_frames:
            timeline.fault = _AVI
        variable = timeline.conclude()
        rate = stream.average_rate or Fraction(timeline.frames) / (timeline.span or 1)
        return {
            "codec": stream.codec_context.codec.canonical_name,
            "width": stream.width,
            "height": stream.height,
            # FFmpeg gives the turn counter-clockwise.
            "rotation": round(-frame.rotation / _QUARTER_TURN) * _QUARTER_TURN % 360,
            "sample_aspect": (stream.sample_aspect_ratio or Fraction(1)).as_integer_ratio(),
            "frame_rate": rate.limit_denominator(_MAX_DENOMINATOR).as_integer_ratio(),
            "variable_rate": variable,
            "frames": timeline.frames,
            "start_us": round((timeline.start or 0) * timeline.tick * _MICRO),
            "duration_us": round(timeline.span * _MICRO),
            "doubtful": _doubtful(timeline, jumps=jumps),
            "longest_us": round(timeline.longest * _MICRO),
            **self._picture(frame),
        }

    def _picture(self, frame: VideoFrame) -> dict[str, Any]:
        return {
            "pixel_format": frame.format.name,
            "bit_depth": max((part.bits for part in frame.format.components), default=8),
            "field_order": self._field_order(),
            "color": names.color(frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range),
            "captions": any("A53_CC" in each.side_data for each in self.frames),
        }

    def _field_order(self) -> str:
        if not self._interlaced:
            return "progressive"
        return "bottom_first" if self.stream.codec_context.field_order in names.BOTTOM_FIRST else "top_first"


def _doubtful(timeline: Timeline, *, jumps: bool) -> int:
    if jumps or timeline.fault in _GUESSED:
        return max(timeline.late, timeline.frames // _ONE_IN)
    return timeline.late if timeline.fault else 0


def _read(
    container: InputContainer, video: _Looked | None, spans: Mapping[int, _Span], clock: Mender
) -> tuple[int, int]:
    """Every packet of the first video stream and of all audio streams; the bytes between which they are."""
    first, end = sys.maxsize, 0
    wanted = {*spans, video.stream.index} if video else {*spans}
    streams = [stream for stream in container.streams if stream.index in wanted]
    for other in container.streams:
        if other.index not in wanted:
            other.discard = Discard.all
    for packet in container.demux(streams):
        if packet.pos is not None:
            first, end = min(first, packet.pos), max(end, packet.pos + packet.size)
        clock.mend(packet)
        if video is not None and packet.stream_index == video.stream.index:
            video.add(packet)
        elif packet.stream_index in spans:
            spans[packet.stream_index].add(packet)
    return min(first, end), end


def _guess(path: Path) -> str:
    """What an unreadable file seems to be, in words."""
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
    if head.lstrip().startswith((b"#EXTM3U", b"ffconcat", b"<MPD", b"<?xml")):
        return "a playlist, which only points at other files; upload the media itself"
    if head.startswith(_PICTURES):
        return "a picture or another kind of data; upload a video"
    if b"\0" not in head:
        return "text; upload the media itself"
    if head[4:8] == b"ftyp":
        return "an MP4 file that is damaged or cut short; is the upload complete?"
    return "data of no format that is known here, or a damaged file"


if __name__ == "__main__":
    answer(lambda path: probe(Path(path)))
