"""Media: what a file holds, what is asked for, and the ladder of renditions that follows from both."""

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tandem.protocol.errors import InvalidLadder
from tandem.protocol.ids import Frozen, Name
from tandem.protocol.units import ceil_div

MIN_SIDE, MAX_SIDE = 16, 8192
"""Pixels of a rendition's side."""

Dimension = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Bitrate = Annotated[int, Field(ge=16_000, le=200_000_000)]
"""Bits a second."""
Positive = Annotated[int, Field(ge=1, lt=2**31)]

MAX_RENDITIONS = 12
MAX_DURATION_US = 12 * 3600 * 10**6
SLACK_US = 2_000_000
"""How much longer than its source an output may run before the executor cuts it, in microseconds."""


class VideoCodec(StrEnum):
    H264 = "h264"


class AudioCodec(StrEnum):
    AAC = "aac"


class Container(StrEnum):
    MP4 = "mp4"


class VideoStream(Frozen):
    codec: str = Field(max_length=64)
    width: int = Field(ge=1, le=16384)
    """Coded width in pixels."""
    height: int = Field(ge=1, le=16384)
    rotation: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise that a player turns the picture."""
    sample_aspect: tuple[Positive, Positive] = (1, 1)
    frame_rate: tuple[Annotated[int, Field(ge=0, lt=2**31)], Positive]
    """Average frames a second as numerator and denominator; 0 where the file does not say."""
    frames: int = Field(ge=0)
    """Frames in the file, counted by packets."""
    pixel_format: str = Field(default="yuv420p", max_length=64)

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height as shown: square pixels, turned upright."""
        across, down = self.sample_aspect
        width = round(Fraction(self.width * across, down))
        return (self.height, width) if self.rotation % 180 else (width, self.height)


class AudioStream(Frozen):
    codec: str = Field(max_length=64)
    channels: int = Field(ge=1, le=64)
    sample_rate: int = Field(ge=1, le=768_000)
    """Hz."""


class MediaInfo(Frozen):
    """What a probe found in a file."""

    format: str = Field(max_length=128)
    duration_us: int = Field(ge=0)
    """Microseconds."""
    video: VideoStream | None
    audio: tuple[AudioStream, ...] = Field(default=(), max_length=64)


class VideoSettings(Frozen):
    codec: VideoCodec = VideoCodec.H264
    bitrate: Bitrate | None = None
    """None: chosen by the size of the picture and the frame rate."""


class AudioSettings(Frozen):
    codec: AudioCodec = AudioCodec.AAC
    bitrate: Bitrate = 128_000


class RenditionRequest(Frozen):
    """One step of the ladder as the submitter asks for it."""

    name: Name | None = None
    """None: the height and a `p`."""
    height: Dimension
    """Pixels; the width follows from the aspect of the source. For a picture that stands upright it is the width."""
    video: VideoSettings = VideoSettings()
    audio: AudioSettings | None = AudioSettings()
    """None: without sound."""


class OutputSettings(Frozen):
    container: Container = Container.MP4


class Rendition(Frozen):
    """One step of the ladder with everything decided."""

    name: Name
    width: Dimension
    height: Dimension
    video_codec: VideoCodec
    video_bitrate: Bitrate
    audio_codec: AudioCodec | None
    audio_bitrate: Bitrate | None

    @model_validator(mode="after")
    def _even_and_complete(self) -> Self:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width and height must be even, got {self.width}x{self.height}")
        if (self.audio_codec is None) != (self.audio_bitrate is None):
            raise ValueError("audio_codec and audio_bitrate come together")
        return self

    @property
    def file_name(self) -> str:
        return f"{self.name}.{Container.MP4}"


_STEPS = (2160, 1440, 1080, 720, 480, 360, 240)
_FALLBACK_STEPS = 4
_BITS_PER_PIXEL_AND_FRAME = Fraction(9, 100)
_REFERENCE_PIXELS = 1280 * 720
_ROUND_TO = 10_000
_ASSUMED_FRAME_RATE = Fraction(30)


def _even(value: int) -> int:
    """Rounded down."""
    return value - value % 2


def _size(source: tuple[int, int], step: int) -> tuple[int, int]:
    """The picture whose shorter side is `step`, in even pixels and never larger than the source."""
    shorter, longer = sorted(source)
    scaled = min(2 * round(Fraction(longer * step, 2 * shorter)), _even(longer))
    return (scaled, step) if source[0] >= source[1] else (step, scaled)


def default_bitrate(width: int, height: int, frame_rate: Fraction) -> int:
    """Bits a second for H.264: 0.09 bits a pixel and frame at 720p, falling with the 0.75th power of the area.

    The power is the usual rule of thumb for how bits scale with resolution at equal quality.
    """
    pixels = width * height
    scale = (pixels / _REFERENCE_PIXELS) ** 0.75
    rate = _BITS_PER_PIXEL_AND_FRAME * _REFERENCE_PIXELS * min(frame_rate or _ASSUMED_FRAME_RATE, Fraction(60))
    return max(100_000, ceil_div(int(float(rate) * scale), _ROUND_TO) * _ROUND_TO)


def default_ladder(source: tuple[int, int]) -> tuple[RenditionRequest, ...]:
    """An ABR ladder that never upscales: the source's own size if it is small, and at most four steps.

    A source longer than a rendition may be is scaled down to fit. Raises InvalidLadder if nothing fits.
    """
    shorter, longer = sorted(source)
    if shorter < MIN_SIDE:
        raise InvalidLadder(f"expected a source of at least {MIN_SIDE} pixels a side, got {source[0]}x{source[1]}")
    largest = _even(min(shorter, shorter * MAX_SIDE // longer))
    if largest < MIN_SIDE:
        raise InvalidLadder(f"expected sides at most {MAX_SIDE // MIN_SIDE} to 1, got {source[0]}x{source[1]}")
    steps = [step for step in _STEPS if step <= largest][:_FALLBACK_STEPS] or [largest]
    return tuple(RenditionRequest(height=step) for step in steps)


def plan_ladder(media: MediaInfo, ladder: tuple[RenditionRequest, ...] | None) -> tuple[Rendition, ...]:
    """Decides every rendition of a job from its source; raises InvalidLadder with what cannot be had."""
    if media.video is None:
        raise InvalidLadder("expected a source with a video stream, got none; only video can be transcoded")
    source = media.video.display_size
    planned = tuple(_plan(media, request) for request in ladder or default_ladder(source))
    names = [rendition.name for rendition in planned]
    if len(set(names)) != len(names):
        raise InvalidLadder(f"expected every rendition to have a name of its own, got {names}")
    return planned


def _plan(media: MediaInfo, request: RenditionRequest) -> Rendition:
    assert media.video is not None  # noqa: S101 - checked by the caller
    source = media.video.display_size
    if request.height % 2 or request.height > min(source):
        raise InvalidLadder(
            f"expected an even height of at most {min(source)} (the shorter side of the source, which is "
            f"{source[0]}x{source[1]}), got {request.height}; renditions are never upscaled"
        )
    width, height = _size(source, request.height)
    if max(width, height) > MAX_SIDE:
        raise InvalidLadder(f"expected at most {MAX_SIDE} pixels a side, got {width}x{height}; ask for a lower height")
    audio = request.audio if media.audio else None
    return Rendition(
        name=request.name or f"{request.height}p",
        width=width,
        height=height,
        video_codec=request.video.codec,
        video_bitrate=request.video.bitrate or default_bitrate(width, height, Fraction(*media.video.frame_rate)),
        audio_codec=audio.codec if audio else None,
        audio_bitrate=audio.bitrate if audio else None,
    )


def output_pixels(media: MediaInfo, ladder: tuple[Rendition, ...]) -> dict[VideoCodec, int]:
    """Pixels to encode, by codec: the unit that transcoding is priced in."""
    frames = media.video.frames if media.video else 0
    totals: dict[VideoCodec, int] = {}
    for rendition in ladder:
        pixels = rendition.width * rendition.height * frames
        totals[rendition.video_codec] = totals.get(rendition.video_codec, 0) + pixels
    return totals
