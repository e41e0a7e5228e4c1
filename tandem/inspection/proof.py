"""That a result can be decoded and cut, at little cost."""

import secrets
from typing import Any

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream

from tandem.protocol.errors import UnreadableMedia
from tandem.protocol.media import SoundCount

_LONGEST_GROUP = 4000
"""Pictures from a keyframe to the next that are kept in memory."""
_SOUND_GROUP = 64
"""Packets of sound that are decoded together."""
_ONE_IN = 8


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

    @property
    def hit(self) -> bool:
        return self._number == self._chosen


class Proof:
    """That pictures can be decoded, are all of one size, and come in closed groups, as those are that can be cut.

    Decoded are of every eight groups from a keyframe to the next a random one, and the last. All of it would cost a
    seventh of what encoding it did.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._size = (stream.width, stream.height)
        self._group: list[Packet[Any]] = []
        self._draw = _Draw()
        self._latest: int | None = None
        """When the last picture of all groups before is shown."""

    def add(self, packet: "Packet[Any]") -> None:
        if packet.is_keyframe:
            self._end()
            if self._draw.hit:
                self._prove()
            self._draw.take()
            self._group = []
        elif not self._group:
            raise UnreadableMedia("expected a keyframe first, got another picture")
        self._group.append(packet)
        if len(self._group) > _LONGEST_GROUP:
            raise UnreadableMedia(f"expected a keyframe at least every {_LONGEST_GROUP} pictures, got none")

    def conclude(self) -> None:
        self._end()
        self._prove()

    def _end(self) -> None:
        """Of a group: none of it is shown before its keyframe, nor before one of an earlier group."""
        times = [packet.pts for packet in self._group if packet.pts is not None]
        if not times:
            return
        if min(times) < times[0] or (self._latest is not None and times[0] <= self._latest):
            raise UnreadableMedia("expected GOPs that are closed and follow each other, got pictures across a keyframe")
        self._latest = max(times)

    def _prove(self) -> None:
        decoder = _decoder(self._stream)
        # What only smooths edges is left out: whether there is a picture does not depend on it.
        decoder.options = {"err_detect": "explode", "skip_loop_filter": "all"}
        shown = sum(self._decoded(decoder, packet) for packet in (*self._group, None))
        if shown != len(self._group):
            raise UnreadableMedia(
                f"expected {len(self._group)} pictures from a keyframe to the next that can be decoded, got {shown}"
            )

    def _decoded(self, decoder: Any, packet: "Packet[Any] | None") -> int:
        try:
            frames = decoder.decode(packet)
        except av.error.EOFError:
            return 0
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"expected pictures that can be decoded, got one that cannot: {error}") from error
        for frame in frames:
            if (frame.width, frame.height) != self._size:
                raise UnreadableMedia(f"expected pictures of {self._size}, got one of {frame.width}x{frame.height}")
        return sum(not frame.is_corrupt for frame in frames)


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
