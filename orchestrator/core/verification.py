"""Whether a result is what was asked, judged from facts that the orchestrator found itself."""

from collections.abc import Mapping, Sequence

from tandem.protocol.errors import InvalidTensor, ResultRejected
from tandem.protocol.jobs import InferenceWork, RenditionResult, TranscodeWork
from tandem.protocol.media import MediaInfo, Rendition
from tandem.protocol.tensors import Tensor, check_tensors

_FRAME_TOLERANCE = 2
_DURATION_TOLERANCE_US = 500_000
_SHOWN_TOLERANCE = 2
"""Pixels: scaling to even sizes may leave pixels a hair from square."""
_OVERHEAD_BYTES = 2**20
_BITRATE_HEADROOM = 4
_BITS_PER_BYTE = 8


def upload_limit(work: TranscodeWork, rendition: Rendition) -> int:
    """The most bytes that a rendition may have: well above its bitrate, so that only a flood is cut."""
    bits = rendition.video_bitrate + (rendition.audio_bitrate or 0)
    return _OVERHEAD_BYTES + _BITRATE_HEADROOM * bits * work.media.duration_us // (_BITS_PER_BYTE * 10**6)


def check_renditions(work: TranscodeWork, renditions: Sequence[RenditionResult]) -> None:
    """Raises ResultRejected unless exactly the renditions of the ladder came."""
    wanted, given = [r.name for r in work.ladder], [r.name for r in renditions]
    if sorted(wanted) != sorted(given):
        raise ResultRejected(f"expected the renditions {sorted(wanted)}, got {sorted(given)}")


def check_media(work: TranscodeWork, probed: Mapping[str, MediaInfo]) -> None:
    """Raises ResultRejected unless every rendition, as probed, is what the ladder asks for."""
    for rendition in work.ladder:
        for fact, expected, got, fine in _facts(work.media, rendition, probed[rendition.name]):
            if not fine:
                raise ResultRejected(f"rendition {rendition.name}: expected {fact} {expected}, got {got}")


def _facts(source: MediaInfo, asked: Rendition, got: MediaInfo) -> list[tuple[str, object, object, bool]]:
    if got.video is None or source.video is None:
        return [("a video stream", "in the file", "none", False)]
    size = (got.video.width, got.video.height)
    shown = got.video.display_size
    frames, duration = got.video.frames, got.duration_us
    sound = (asked.audio_codec.value,) if asked.audio_codec else ()
    codecs = tuple(stream.codec for stream in got.audio)
    off = abs(duration - source.duration_us)
    return [
        ("codec", asked.video_codec.value, got.video.codec, got.video.codec == asked.video_codec.value),
        ("size", (asked.width, asked.height), size, size == (asked.width, asked.height)),
        ("size as shown", size, shown, max(abs(shown[0] - size[0]), abs(shown[1] - size[1])) <= _SHOWN_TOLERANCE),
        ("frames", source.video.frames, frames, abs(frames - source.video.frames) <= _FRAME_TOLERANCE),
        ("duration in µs", source.duration_us, duration, off <= _DURATION_TOLERANCE_US),
        ("audio", sound, codecs, codecs == sound),
    ]


def check_outputs(work: InferenceWork, tensors: Sequence[Tensor]) -> None:
    """Raises ResultRejected unless the tensors are those that the model gives."""
    try:
        check_tensors(work.outputs, tensors)
    except InvalidTensor as error:
        raise ResultRejected(error.detail) from error
