"""That a result can be decoded, at little cost."""

from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from tandem.protocol.errors import UnreadableMedia

_LONGEST_TAIL = 4000
"""Pictures after a keyframe that are kept in memory."""


class Proof:
    """That a stream can be decoded: every keyframe, and everything from the last one to the end.

    All of it would cost a seventh of what encoding it did; this costs about a seventieth.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._decoder = self._new(stream)
        self._decoder.skip_frame = "NONKEY"
        self._stream = stream
        self._tail: list[Packet[Any]] = []
        self._keys = 0
        self._shown = 0

    @staticmethod
    def _new(stream: VideoStream) -> Any:
        decoder = av.CodecContext.create(stream.codec_context.codec.name, "r")
        decoder.extradata = stream.codec_context.extradata
        decoder.thread_count = 1
        decoder.options = {"err_detect": "explode"}
        return decoder

    def add(self, packet: "Packet[Any]") -> None:
        if packet.is_keyframe:
            self._tail = []
            self._keys += 1
            self._shown += self._decoded(self._decoder, packet)
        self._tail.append(packet)
        if len(self._tail) > _LONGEST_TAIL:
            raise UnreadableMedia(f"expected a keyframe at least every {_LONGEST_TAIL} pictures, got none")

    def conclude(self) -> None:
        self._shown += self._decoded(self._decoder, None)
        last = self._new(self._stream)
        shown = sum(self._decoded(last, packet) for packet in (*self._tail, None))
        if (self._shown, shown) != (self._keys, len(self._tail)):
            raise UnreadableMedia(
                f"expected {self._keys} keyframes, and {len(self._tail)} pictures from the last one on, that can be "
                f"decoded, got {self._shown} and {shown}"
            )

    @staticmethod
    def _decoded(decoder: Any, packet: "Packet[Any] | None") -> int:
        try:
            return sum(not frame.is_corrupt for frame in decoder.decode(packet))
        except av.error.EOFError:
            return 0
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"expected pictures that can be decoded, got one that cannot: {error}") from error
