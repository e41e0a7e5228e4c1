"""Main of the child process that cuts and joins: it reads its order from the first argument, and answers as JSON."""

import errno
from fractions import Fraction
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, assert_never

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from pydantic import TypeAdapter

from orchestrator.children.codecs import codec_name
from orchestrator.children.mp4 import put_together
from orchestrator.children.segments import cut_pictures, cut_sound, cut_transport, delayed_beginning, priming
from orchestrator.children.sources import follows
from orchestrator.children.tracks import START_CODES, beginning, opened
from orchestrator.core.packaging import Cut, Ending, Track
from orchestrator.ports.packaging import CutPart, CutParts, Cutting, Images, Joining, Part, Pictures, Sound
from tandem.inspection.answer import answer
from tandem.inspection.images import jpegs
from tandem.protocol.errors import ResultRejected
from tandem.protocol.timing import TICKS

ORDER: TypeAdapter[Cutting | Joining] = TypeAdapter(Cutting | Joining)

_MICRO = 10**6
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT)
_CAPTIONS = b"\xb5\x00\x31GA94\x03"
"""What a message in H.264 and HEVC begins with that has captions: country, provider, kind."""
_LOOKED_AT = 24
"""Pictures."""
_RANGES = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


def perform(text: str) -> dict[str, Any]:
    """The order in JSON. Raises ResultRejected."""
    order = ORDER.validate_json(text)
    try:
        match order:
            case Cutting():
                return CutParts(parts=tuple(_cut(order, part) for part in order.parts)).model_dump()
            case Joining():
                put_together(order)
                return CutParts(parts=()).model_dump()
    except av.error.FFmpegError as error:
        if error.errno in _DISK_FAULTS:
            raise
        raise ResultRejected(f"expected files that fit together, got {error}") from error
    assert_never(order)


def _cut(order: Cutting, part: Part) -> CutPart:
    folder = order.folder / part.name
    folder.mkdir()
    match part:
        case Pictures():
            return _pictures(order, part, folder)
        case Sound():
            return _sound(order, part, folder)
        case Images():
            return CutPart(name=part.name, cuts=tuple(_images(part.path, folder)))
    assert_never(part)


def _pictures(order: Cutting, part: Pictures, folder: Path) -> CutPart:
    _, init = delayed_beginning(part.first, part.color)
    ending = part.ending if part.follower is None else Ending(at=follows(part.follower) or part.ending.at)
    cell = Fraction(order.segment_us, _MICRO)
    if order.transport:
        cuts = cut_transport(part.path, cell, ending, lambda start: folder / f"{start}.ts")
    else:
        cuts = cut_pictures(part.path, part.first, cell, ending, lambda start: folder / f"{start}.m4s")
        (folder / "init.mp4").write_bytes(init)
    with opened(part.first) as (container, stream):
        track = _track(stream, init, TICKS)
        more = {"captions": _captioned(container, stream), "range": _RANGES.get(part.color.transfer or "", "SDR")}
        track = track.model_copy(update=more)
        return CutPart(name=part.name, track=track, cuts=tuple(cuts))


def _sound(order: Cutting, part: Sound, folder: Path) -> CutPart:
    cell = Fraction(order.segment_us, _MICRO)
    with opened(part.first) as (_, stream):
        init = beginning(stream, 0 if order.transport else priming(part.first))
        if order.transport:
            cuts = cut_transport(part.path, cell, Ending(), lambda start: folder / f"{start}.ts", part.span)
            return CutPart(name=part.name, track=_track(stream, init, TICKS), cuts=tuple(cuts))
        cuts = cut_sound(part.path, part.first, cell, lambda start: folder / f"{start}.m4s", part.span)
        (folder / "init.mp4").write_bytes(init)
        timescale = Fraction(1) / (stream.time_base or Fraction(1))
        return CutPart(name=part.name, track=_track(stream, init, int(timescale)), cuts=tuple(cuts))


def _track(stream: Stream, init: bytes, timescale: int) -> Track:
    context = stream.codec_context
    codec = codec_name(init, context.extradata or b"")
    if isinstance(stream, AudioStream):
        return Track(codec=codec, timescale=timescale, channels=stream.channels, sample_rate=stream.sample_rate)
    size = (context.width, context.height) if isinstance(context, VideoCodecContext) else (0, 0)
    return Track(codec=codec, timescale=timescale, width=size[0], height=size[1])


def _captioned(container: InputContainer, stream: Stream) -> bool:
    """Whether captions come with the first pictures, where encoders keep those of a source (ATSC A/53, part 4)."""
    first = islice(container.demux(stream), _LOOKED_AT)
    return stream.codec_context.name in START_CODES and any(_CAPTIONS in bytes(packet) for packet in first)


def _images(path: Path, folder: Path) -> list[Cut]:
    """As they were counted when they were verified: a picture may have others within."""
    cuts: list[Cut] = []
    end = 0
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for number, image in enumerate(jpegs(data)):
            (folder / f"{number}.jpg").write_bytes(data[image.start : image.end])
            cuts.append(Cut(start=number, duration=1))
            end = image.end
        if end != len(data):
            raise ResultRejected("expected JPEG pictures one after the other, got other data")
    return cuts


if __name__ == "__main__":
    answer(perform)
