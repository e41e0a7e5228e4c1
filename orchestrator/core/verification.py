"""Whether a result is what was asked, judged from facts that the orchestrator found itself."""

from collections.abc import Mapping, Sequence

from tandem.protocol.errors import InvalidTensor, ResultRejected
from tandem.protocol.jobs import FileResult, InferenceWork, TranscodeWork
from tandem.protocol.ladder import AudioRendition, Rendition
from tandem.protocol.media import MediaInfo
from tandem.protocol.tensors import Tensor, check_tensors

_FRAME_TOLERANCE = 2
_DURATION_TOLERANCE_US = 500_000
_SHOWN_TOLERANCE = 2
"""Pixels: scaling to even sizes may leave pixels a hair from square."""
_OVERHEAD_BYTES = 2**20
_MOST_BITS = 240_000_000
"""A second, of what has no bitrate to go by."""
_BITRATE_HEADROOM = 4
_BITS_PER_BYTE = 8


def upload_limit(work: TranscodeWork, name: str) -> int:
    """The most bytes that a file of the output may have: well above its bitrate, so that only a flood is cut."""
    parts: list[Rendition | AudioRendition] = [*work.video, *work.audio]
    rates = [each.bitrate + _sound_bits(work, each) for each in parts if each.name == name and each.bitrate is not None]
    bits = _BITRATE_HEADROOM * rates[0] if rates else _MOST_BITS
    return _OVERHEAD_BYTES + bits * work.duration_us // (_BITS_PER_BYTE * 10**6)


def _sound_bits(work: TranscodeWork, part: Rendition | AudioRendition) -> int:
    """Of the sound that comes with a rendition."""
    names = part.audio if work.direct and isinstance(part, Rendition) else ()
    return sum(each.bitrate or 0 for each in work.audio if each.name in names)


def check_files(work: TranscodeWork, files: Sequence[FileResult]) -> None:
    """Raises ResultRejected unless exactly the files that were asked for came."""
    wanted, given = sorted(work.names), sorted(file.name for file in files)
    if wanted != given:
        raise ResultRejected(f"expected the files {wanted}, got {given}")


def check_media(work: TranscodeWork, probed: Mapping[str, MediaInfo]) -> None:
    """Raises ResultRejected unless every rendition, as probed, is what the ladder asks for."""
    for rendition in work.video:
        for fact, expected, got, fine in _facts(work, rendition, probed[rendition.name]):
            if not fine:
                raise ResultRejected(f"rendition {rendition.name}: expected {fact} {expected}, got {got}")


def _facts(work: TranscodeWork, asked: Rendition, got: MediaInfo) -> list[tuple[str, object, object, bool]]:
    if got.video is None:
        return [("a video stream", "in the file", "none", False)]
    size = (got.video.width, got.video.height)
    shown = got.video.display_size
    frames, duration = got.video.frames, got.duration_us
    wanted = work.frames_of(asked)
    sound = tuple(each.codec.value for each in work.audio if each.name in asked.audio) if work.direct else ()
    codecs = tuple(stream.codec for stream in got.audio)
    off = abs(duration - work.duration_us)
    return [
        ("codec", asked.codec.value, got.video.codec, got.video.codec == asked.codec.value),
        ("size", (asked.width, asked.height), size, size == (asked.width, asked.height)),
        ("size as shown", size, shown, max(abs(shown[0] - size[0]), abs(shown[1] - size[1])) <= _SHOWN_TOLERANCE),
        ("frames", wanted, frames, abs(frames - wanted) <= _FRAME_TOLERANCE),
        ("duration in µs", work.duration_us, duration, off <= _DURATION_TOLERANCE_US),
        ("audio", sound, codecs, codecs == sound),
    ]


def check_outputs(work: InferenceWork, tensors: Sequence[Tensor]) -> None:
    """Raises ResultRejected unless the tensors are those that the model gives."""
    try:
        check_tensors(work.outputs, tensors)
    except InvalidTensor as error:
        raise ResultRejected(error.detail) from error
