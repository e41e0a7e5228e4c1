"""Main of the child process that finds out how hard a video is to encode: a few short windows at constant quality."""

import sys
from fractions import Fraction
from functools import partial
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tandem.inspection.accepted import DEMUXER_OPTIONS
from tandem.inspection.answer import answer
from tandem.protocol.errors import UnreadableMedia

_WINDOWS = 4
_FRAMES = 30
"""Of each window."""
_SHORTER_SIDE = 360
_QUALITY = {"preset": "veryfast", "crf": "23", "tune": "psnr"}
_BITS = 8


def measure(path: str, duration_us: int) -> dict[str, Any]:
    """The fields of a ComplexityReport; raises UnreadableMedia if there is nothing to measure."""
    bits, pixels = 0, 0
    with av.open(f"file:{path}", "r", options=DEMUXER_OPTIONS, metadata_errors="replace") as container:
        stream = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        stream.codec_context.thread_count = 1
        start = (stream.start_time or 0) * Fraction(stream.time_base or 1)
        for index in range(_WINDOWS):
            at = start + Fraction(duration_us * (2 * index + 1), 2 * _WINDOWS * 10**6)
            frames = _frames(container, stream, at)
            bits += _encoded(frames) * _BITS
            pixels += sum(frame.width * frame.height for frame in frames)
    if not pixels:
        raise UnreadableMedia("expected pictures that can be decoded, got none")
    return {"microbits_a_pixel": bits * 10**6 // pixels}


def _frames(container: InputContainer, stream: VideoStream, at: Fraction) -> list[VideoFrame]:
    """Some from the keyframe before a time on, small."""
    container.seek(int(at / Fraction(stream.time_base or 1)), stream=stream)
    found: list[VideoFrame] = []
    try:
        for frame in container.decode(stream):
            scale = min(Fraction(1), Fraction(_SHORTER_SIDE, min(frame.width, frame.height)))
            width, height = (max(16, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
            small = frame.reformat(width, height, "yuv420p")
            small.pts, small.time_base = len(found), Fraction(1, 25)
            found.append(small)
            if len(found) == _FRAMES:
                break
    except av.error.FFmpegError:  # what was decoded until then will do
        pass
    return found


def _encoded(frames: list[VideoFrame]) -> int:
    """Bytes."""
    if not frames:
        return 0
    encoder: VideoCodecContext = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.time_base, encoder.options, encoder.thread_count = Fraction(1, 25), dict(_QUALITY), 1
    alike = [frame for frame in frames if (frame.width, frame.height) == (encoder.width, encoder.height)]
    return sum(packet.size for frame in (*alike, None) for packet in encoder.encode(frame))


if __name__ == "__main__":
    answer(partial(measure, duration_us=int(sys.argv[2])))
