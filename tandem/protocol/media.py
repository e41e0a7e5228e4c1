"""What a media file holds, as an inspection finds it. What is asked for and decided is in `ladder`."""

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from tandem.protocol.ids import Frozen, Label

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Duration = Annotated[int, Field(ge=0, lt=2**53)]
"""Microseconds."""
Instant = Annotated[int, Field(gt=-(2**53), lt=2**53)]
"""Presentation time in microseconds, on the file's own timeline."""
Language = Annotated[str, Field(pattern=r"^[a-z]{2,8}$")]
"""As the file has it, most often ISO 639-2, such as `eng`."""

MAX_DURATION_US = 12 * 3600 * 10**6
MAX_TRACKS = 64
MAX_KEYFRAMES = 2**17


class VideoCodec(StrEnum):
    H264 = "h264"
    HEVC = "hevc"
    VP9 = "vp9"
    AV1 = "av1"


class AudioCodec(StrEnum):
    AAC = "aac"
    OPUS = "opus"


class FieldOrder(StrEnum):
    PROGRESSIVE = "progressive"
    TOP_FIRST = "top_first"
    BOTTOM_FIRST = "bottom_first"

    @property
    def interlaced(self) -> bool:
        return self is not FieldOrder.PROGRESSIVE


class Color(Frozen):
    """As FFmpeg names them; None where the file does not say."""

    transfer: Label | None = None
    primaries: Label | None = None
    matrix: Label | None = None
    range: Label | None = None

    @property
    def hdr(self) -> bool:
        """PQ or HLG."""
        return self.transfer in {"smpte2084", "arib-std-b67"}


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
    variable_rate: bool = False
    """True: the time between frames differs by more than rounding."""
    frames: int = Field(ge=0)
    """Frames in the file, counted by packets."""
    doubtful: int = Field(default=0, ge=0)
    """So many frames may never be shown, since their times do not rise or are guesses."""
    start_us: Instant = 0
    """When the first frame is shown."""
    duration_us: Duration = 0
    """From the first frame's start to the last one's end."""
    longest_us: Duration = 0
    """The most from one frame's start to the next one's."""
    pixel_format: str = Field(default="yuv420p", max_length=64)
    bit_depth: int = Field(default=8, ge=1, le=32)
    field_order: FieldOrder = FieldOrder.PROGRESSIVE
    color: Color = Color()
    captions: bool = False
    """Whether CEA-608 or CEA-708 captions are among the pictures."""

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height as shown: square pixels, turned upright."""
        across, down = self.sample_aspect
        width = round(Fraction(self.width * across, down))
        return (self.height, width) if self.rotation % 180 else (width, self.height)


class AudioStream(Frozen):
    codec: str = Field(max_length=64)
    channels: int = Field(ge=1, le=64)
    layout: str = Field(default="", max_length=64)
    """As FFmpeg names it, such as `5.1(side)`."""
    sample_rate: int = Field(ge=1, le=768_000)
    """Hz."""
    decodable: bool = True
    language: Language | None = None
    default: bool = False
    start_us: Instant = 0
    duration_us: Duration = 0


class SubtitleStream(Frozen):
    codec: str = Field(max_length=64)
    language: Language | None = None
    text: bool = True
    """False: pictures, which cannot become WebVTT."""


class MediaInfo(Frozen):
    """What a probe found in a file. A stream's place in its tuple is its number among those of its kind."""

    format: str = Field(max_length=128)
    duration_us: Duration
    """Of the video, or of all where there is none."""
    video: VideoStream | None
    audio: tuple[AudioStream, ...] = Field(default=(), max_length=MAX_TRACKS)
    subtitles: tuple[SubtitleStream, ...] = Field(default=(), max_length=MAX_TRACKS)
    unsplittable: Label | None = None
    """Why the timeline forbids that pieces are transcoded apart; None: it does not."""

    jumps: bool = False
    """Whether its clock jumps, as in a recording of a broadcast; times are given as if it did not."""
    complexity: int | None = Field(default=None, ge=0, lt=2**53)
    """Millionths of a bit that a pixel of a small version takes at constant quality; None: not measured."""

    @property
    def origin_us(self) -> int:
        """Presentation time that becomes 0 in outputs: of the first picture, else of the first sound."""
        if self.video is not None:
            return self.video.start_us
        return self.audio[0].start_us if self.audio else 0

    @property
    def splittable(self) -> bool:
        return self.video is not None and self.unsplittable is None


class Layout(Frozen):
    """Where the bytes of a file are whose packets an index names one by one, so that parts of it can be read alone."""

    head: int = Field(ge=0)
    """Up to here it says what it holds, and begins."""
    tail: int = Field(ge=0)
    """From here on there are no packets any more."""
    places: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=MAX_KEYFRAMES)
    """Of the keyframes, ascending."""


class SoundCount(Frozen):
    """Of an audio stream of a result."""

    packets: int = Field(ge=0)
    broken: int = Field(ge=0)
    """So many that cannot be decoded, of those that were tried."""


class Source(Frozen):
    """A file as an inspection finds it: the facts that nodes are told, and those that only planning needs."""

    media: MediaInfo
    keyframes: tuple[Instant, ...] = Field(default=(), max_length=MAX_KEYFRAMES)
    """Presentation times, ascending, at which decoding can really begin; of many close ones, some are left out."""
    layout: Layout | None = None
    sounds: tuple[SoundCount, ...] = Field(default=(), max_length=MAX_TRACKS)
    """Of the audio streams, in their order; of results alone."""
