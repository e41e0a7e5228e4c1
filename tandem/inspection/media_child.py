"""Main of the child process that probes media with PyAV: every packet is read, and one frame decoded."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tandem.inspection.accepted import AUDIO_DECODERS, DEMUXER_OPTIONS, MAX_PIXELS, VIDEO_DECODERS
from tandem.inspection.answer import answer
from tandem.protocol.errors import UnreadableMedia

_MICRO = 10**6
_MAX_DENOMINATOR = 1_001_000
_QUARTER_TURN = 90
_SNIFFED_BYTES = 1024
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def probe(path: Path) -> dict[str, Any]:
    """The fields of a Source; raises UnreadableMedia."""
    if path.stat().st_size == 0:
        raise UnreadableMedia("expected a media file, got an empty one; upload it again")
    try:
        with av.open(f"file:{path}", "r", options=DEMUXER_OPTIONS, metadata_errors="replace") as container:
            return _facts(container)
    except av.error.FFmpegError as error:
        raise UnreadableMedia(f"expected a media file such as MP4, Matroska or MPEG-TS, got {_guess(path)}") from error


def _facts(container: InputContainer) -> dict[str, Any]:
    audio = _sound(container)
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if pictures:
        video, span = _picture(container, pictures[0])
    elif audio:
        video, span = None, Fraction(container.duration or 0, av.time_base)
    else:
        raise UnreadableMedia("expected a video or an audio stream, got a file with neither that can be decoded")
    media = {"format": container.format.name, "duration_us": round(span * _MICRO), "video": video, "audio": audio}
    return {"media": media}


def _sound(container: InputContainer) -> list[dict[str, Any]]:
    """The audio streams, if the first, which is the one that is transcoded, can be decoded."""
    streams = container.streams.audio
    if not streams or not _decodable(streams[0], AUDIO_DECODERS):
        return []
    return [
        {
            "codec": stream.codec_context.codec.canonical_name,
            "channels": stream.channels,
            "sample_rate": stream.sample_rate,
        }
        for stream in streams
        if _decodable(stream, AUDIO_DECODERS) and stream.channels and stream.sample_rate
    ]


def _decodable(stream: AudioStream | VideoStream, decoders: tuple[str, ...]) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in decoders


def _picture(container: InputContainer, stream: VideoStream) -> tuple[dict[str, Any], Fraction]:
    if not _decodable(stream, VIDEO_DECODERS):
        codec = stream.codec_context.codec.name if stream.codec_context else "an unknown codec"
        raise UnreadableMedia(f"expected a video codec such as H.264, HEVC, VP9 or AV1, got {codec}")
    if stream.width * stream.height > MAX_PIXELS:
        raise UnreadableMedia(f"expected at most {MAX_PIXELS} pixels a picture, got {stream.width}x{stream.height}")
    timeline, frame = _read(container, stream)
    if frame is None:
        raise UnreadableMedia(
            "expected a decodable video stream, got one without a single frame; is the upload complete?"
        )
    return _describe(stream, timeline, frame), timeline.span


def _describe(stream: VideoStream, timeline: "_Timeline", frame: VideoFrame) -> dict[str, Any]:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    rate = stream.average_rate or Fraction(timeline.frames) / (timeline.span or 1)
    return {
        "codec": stream.codec_context.codec.canonical_name,
        "width": stream.width,
        "height": stream.height,
        # FFmpeg gives the turn counter-clockwise.
        "rotation": round(-frame.rotation / _QUARTER_TURN) * _QUARTER_TURN % 360,
        "sample_aspect": aspect.as_integer_ratio(),
        "frame_rate": rate.limit_denominator(_MAX_DENOMINATOR).as_integer_ratio(),
        "frames": timeline.frames,
        "pixel_format": frame.format.name,
    }


@dataclass
class _Timeline:
    """What the packets of a stream add up to. Those that no decoder shows are left out."""

    tick: Fraction
    frames: int = 0
    start: int | None = None
    end: int = 0

    @property
    def span(self) -> Fraction:
        """Seconds from the first frame's start to the last one's end."""
        return (self.end - (self.start or 0)) * self.tick

    def add(self, packet: "Packet[VideoStream]") -> None:
        # A stream cut out of a broadcast begins with pictures whose key frame is missing: those before its first key
        # frame, and those that follow it but are shown before it.
        if packet.is_discard or not (self.frames or packet.is_keyframe):
            return
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            self.start = time if self.start is None else self.start
            if time < self.start:
                return
            self.end = max(self.end, time + (packet.duration or 0))
        self.frames += 1


def _read(container: InputContainer, stream: VideoStream) -> tuple[_Timeline, VideoFrame | None]:
    """Counts all packets; only the first frame is decoded, since it alone carries the rotation."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    timeline, frame = _Timeline(stream.time_base or Fraction(1, _MICRO)), None
    for packet in container.demux(stream):
        frame = frame or _first_frame(stream, packet)
        if packet.size:
            timeline.add(packet)
    return timeline, frame


def _first_frame(stream: VideoStream, packet: "Packet[VideoStream]") -> VideoFrame | None:
    try:
        return next(iter(stream.decode(packet)), None)
    except av.error.FFmpegError:  # a damaged packet; a later one may do
        return None


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
    answer(probe)
