"""That a result can be decoded, at little cost."""

import secrets
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from tandem.protocol.errors import UnreadableMedia

_LONGEST_GROUP = 4000
"""Pictures from a keyframe to the next that are kept in memory."""
_ONE_IN = 8


class Proof:
    """That a stream can be decoded: of every eight groups from a keyframe to the next a random one, and the last.

    Which, nobody can know who made the stream. All of it would cost a seventh of what encoding it did.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._group: list[Packet[Any]] = []
        self._number = -1
        self._chosen = secrets.randbelow(_ONE_IN)

    def add(self, packet: "Packet[Any]") -> None:
        if packet.is_keyframe:
            if self._number == self._chosen:
                self._prove()
            self._number += 1
            if self._number == _ONE_IN:
                self._number, self._chosen = 0, secrets.randbelow(_ONE_IN)
            self._group = []
        self._group.append(packet)
        if len(self._group) > _LONGEST_GROUP:
            raise UnreadableMedia(f"expected a keyframe at least every {_LONGEST_GROUP} pictures, got none")

    def conclude(self) -> None:
        self._prove()

    def _prove(self) -> None:
        decoder: Any = av.CodecContext.create(self._stream.codec_context.codec.name, "r")
        decoder.extradata = self._stream.codec_context.extradata
        decoder.thread_count = 1
        # What only smooths edges is left out: whether there is a picture does not depend on it.
        decoder.options = {"err_detect": "explode", "skip_loop_filter": "all"}
        shown = sum(self._decoded(decoder, packet) for packet in (*self._group, None))
        if shown != len(self._group):
            raise UnreadableMedia(
                f"expected {len(self._group)} pictures from a keyframe to the next that can be decoded, got {shown}"
            )

    @staticmethod
    def _decoded(decoder: Any, packet: "Packet[Any] | None") -> int:
        try:
            return sum(not frame.is_corrupt for frame in decoder.decode(packet))
        except av.error.EOFError:
            return 0
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"expected pictures that can be decoded, got one that cannot: {error}") from error
