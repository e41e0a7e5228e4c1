"""That a result can be decoded and cut, at little cost."""

import secrets
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tandem.inspection.sample import Sample
from tandem.protocol.errors import UnreadableMedia
from tandem.protocol.media import SoundCount

_LONGEST_GROUP = 4000
"""Pictures from a keyframe to the next that are kept in memory."""
_SOUND_GROUP = 64
"""Packets of sound that are decoded together."""
_ONE_IN = 8
_MICRO = 10**6


class _Draw:
    """Of every eight groups a random one. Which, nobody can know who made the stream."""

    def __init__(self) -> None:
        self._number = -1
        self._chosen = secrets.randbelow(_ONE_IN)

    def take(self) -> None:
        """The next group begins."""
        self._number += 1
        if self._number == _ONE_IN:
            self._number, self._chosen = 0, secrets.randbelow(_ONE_IN)

    def spend(self) -> None:
        """Another one of the eight was looked at in its stead."""
        self._chosen = _ONE_IN

    @property
    def hit(self) -> bool:
        return self._number == self._chosen


class Proof:
    """That pictures can be decoded, are all of one size, and come in closed groups, as those are that can be cut.

    Decoded are of every eight groups from a keyframe to the next a random one, and the last. All of it would cost a
    seventh of what encoding it did. The group that a sample is taken of is decoded too, if one is wanted.
    """

    def __init__(self, stream: VideoStream, sample: Sample | None = None) -> None:
        self._stream = stream
        self._sample = sample
        self._size = (stream.width, stream.height)
        self._group: list[Packet[Any]] = []
        self._draw = _Draw()
        self._latest: int | None = None
        """When the last picture of all groups before is shown."""

    def add(self, packet: "Packet[Any]") -> None:
        if self._sample is not None:
            self._sample.bytes += packet.size
        if packet.is_keyframe:
            self._end()
            self._look(self._us(packet), always=self._draw.hit)
            self._draw.take()
            self._group = []
        elif not self._group:
            raise UnreadableMedia("expected a keyframe first, got another picture")
        self._group.append(packet)
        if len(self._group) > _LONGEST_GROUP:
            raise UnreadableMedia(f"expected a keyframe at least every {_LONGEST_GROUP} pictures, got none")

    def conclude(self) -> None:
        self._end()
        self._look(None, always=True)

    def _look(self, following_us: int | None, *, always: bool) -> None:
        """Into a group, before the time of the next one's keyframe; None: it is the last."""
        sample = self._sample
        if sample is not None and self._group and sample.wants(following_us):
            size = sum(packet.size for packet in self._group)
            sample.begin([self._us(packet) for packet in self._group], following_us, size)
            self._prove(sample)
            self._draw.spend()
        elif always:
            self._prove(None)

    def _us(self, timed: "Packet[Any] | VideoFrame") -> int:
        return round((timed.pts or 0) * Fraction(self._stream.time_base or 1) * _MICRO)

    def _end(self) -> None:
        """Of a group: none of it is shown before its keyframe, nor before one of an earlier group."""
        times = [packet.pts for packet in self._group if packet.pts is not None]
        if not times:
            return
        if min(times) < times[0] or (self._latest is not None and times[0] <= self._latest):
            raise UnreadableMedia("expected GOPs that are closed and follow each other, got pictures across a keyframe")
        self._latest = max(times)

    def _prove(self, sample: Sample | None) -> None:
        decoder = _decoder(self._stream)
        # What only smooths edges is left out: whether there is a picture does not depend on it, only how it looks.
        decoder.options = {"err_detect": "explode", "skip_loop_filter": "none" if sample else "all"}
        shown = 0
        for packet in (*self._group, None):
            for frame in self._decoded(decoder, packet):
                shown += 1
                if sample is not None:
                    sample.offer(self._us(frame), frame)
        if shown != len(self._group):
            raise UnreadableMedia(
                f"expected {len(self._group)} pictures from a keyframe to the next that can be decoded, got {shown}"
            )

    def _decoded(self, decoder: Any, packet: "Packet[Any] | None") -> list[VideoFrame]:
        try:
            frames: list[VideoFrame] = decoder.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"expected pictures that can be decoded, got one that cannot: {error}") from error
        for frame in frames:
            if (frame.width, frame.height) != self._size:
                raise UnreadableMedia(f"expected pictures of {self._size}, got one of {frame.width}x{frame.height}")
        return [frame for frame in frames if not frame.is_corrupt]


class SoundProof:
    """How many packets of sound there are, and of those decoded, one run in eight and the last, how many cannot be."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self._group: list[Packet[Any]] = []
        self._draw = _Draw()
        self._draw.take()
        self._packets = self._broken = 0

    def add(self, packet: "Packet[Any]") -> None:
        if len(self._group) == _SOUND_GROUP:
            if self._draw.hit:
                self._prove()
            self._draw.take()
            self._group = []
        self._packets += 1
        self._group.append(packet)

    def conclude(self) -> SoundCount:
        self._prove()
        return SoundCount(packets=self._packets, broken=self._broken)

    def _prove(self) -> None:
        decoder = _decoder(self._stream)
        for packet in self._group:
            try:
                decoder.decode(packet)
            except av.error.FFmpegError:
                self._broken += 1


def _decoder(stream: AudioStream | VideoStream) -> Any:
    decoder: Any = av.CodecContext.create(stream.codec_context.codec.name, "r")
    decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1
    return decoder
