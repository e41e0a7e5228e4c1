"""What a submitter asks of a transcode, and the same with everything decided."""

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tandem.protocol.ids import ArtifactId, Frozen, Name
from tandem.protocol.media import MAX_DURATION_US, MAX_TRACKS, AudioCodec, Instant, Language, VideoCodec

MIN_SIDE, MAX_SIDE = 16, 8192
"""Pixels of a rendition's side."""
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8000, 96_000
"""Hz, of sound that is made or copied."""
MAX_RENDITIONS = 12
MAX_AUDIO_RENDITIONS = 16

Dimension = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Bitrate = Annotated[int, Field(ge=16_000, le=200_000_000)]
"""Bits a second."""
Quality = Annotated[int, Field(ge=0, le=63)]
"""The codec's own constant-quality scale (CRF): 0 to 51 for H.264 and HEVC, 0 to 63 for VP9 and AV1; less is better."""
Level = Annotated[str, BeforeValidator(lambda value: value if isinstance(value, str) else str(value))]
"""Such as `4.1`; which there are depends on the codec."""
Loudness = Annotated[float, Field(ge=-36, le=-8, allow_inf_nan=False)]
"""Integrated loudness by EBU R 128, in LUFS."""
Seconds = Annotated[float, Field(ge=0, le=MAX_DURATION_US / 10**6, allow_inf_nan=False)]
Track = Annotated[int, Field(ge=0, lt=MAX_TRACKS)]
"""The place of a stream among the source's streams of its kind, from 0."""

_NTSC = Fraction(1000, 1001)
_NTSC_TOLERANCE = Fraction(1, 200)
_LARGEST_RATE_TERM = 1_001_000


def _frame_rate(value: Any) -> Any:
    """A number, `"30000/1001"` or a pair; 29.97 and its like stand for 30000/1001 and its like."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            exact = Fraction(value).limit_denominator(1001)
        except ArithmeticError as error:  # infinite, or with a denominator of 0
            raise ValueError(f"expected frames a second, such as 25 or 30000/1001, got {value}") from error
        for whole in (24, 30, 48, 60, 120):
            if exact != whole and abs(exact - whole * _NTSC) < _NTSC_TOLERANCE:
                exact = whole * _NTSC
        return exact.as_integer_ratio()
    return value


FrameRate = Annotated[
    tuple[Annotated[int, Field(ge=1, le=_LARGEST_RATE_TERM)], Annotated[int, Field(ge=1, le=1001)]],
    BeforeValidator(_frame_rate),
]
"""Frames a second as numerator and denominator; in a request also a number or text such as `30000/1001`."""


class Profile(StrEnum):
    BASELINE = "baseline"
    MAIN = "main"
    HIGH = "high"
    HIGH10 = "high10"
    MAIN10 = "main10"


class PixelFormat(StrEnum):
    """As FFmpeg names them."""

    YUV420P = "yuv420p"
    YUV420P10 = "yuv420p10le"

    @property
    def bit_depth(self) -> int:
        return 8 if self is PixelFormat.YUV420P else 10


class Container(StrEnum):
    MP4 = "mp4"
    HLS = "hls"
    DASH = "dash"
    CMAF = "cmaf"
    """HLS and DASH over the same segments."""


class SegmentFormat(StrEnum):
    FMP4 = "fmp4"
    TS = "ts"


class Hdr(StrEnum):
    TONE_MAP = "tone_map"
    """To SDR, if the source is HDR."""
    KEEP = "keep"


class Corner(StrEnum):
    TOP_LEFT = "top_left"
    TOP_RIGHT = "top_right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"
    CENTER = "center"


class ImageFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"


# What a submitter sends.


class RateControl(Frozen):
    """A bitrate, a constant quality, or a quality that never passes a bitrate; none of them: a bitrate is chosen."""

    bitrate: Bitrate | None = None
    """On average; peaks reach half as much again."""
    quality: Quality | None = None
    max_bitrate: Bitrate | None = None
    """With `quality` only."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.bitrate is not None and self.quality is not None:
            raise ValueError("bitrate and quality exclude each other; a capped quality is quality and max_bitrate")
        if self.max_bitrate is not None and self.quality is None:
            raise ValueError("max_bitrate caps a quality; give quality too")
        return self


class VideoSettings(RateControl):
    codec: VideoCodec = VideoCodec.H264
    profile: Profile | None = None
    """None: the best that the pixel format allows and players take."""
    level: Level | None = None
    """None: the encoder's choice."""
    fps: FrameRate | None = None
    """None: the source's frames, at the source's times."""
    pixel_format: PixelFormat | None = None
    """None: 8 bits, or 10 where HDR is kept."""


class AudioSettings(Frozen):
    codec: AudioCodec = AudioCodec.AAC
    bitrate: Bitrate | None = None
    """None: 64 kbit/s a channel of AAC, 48 of Opus."""
    channels: Literal[1, 2, 6, 8] = 2
    """At most; a source with fewer keeps its own."""
    passthrough: bool = False
    """True: the source's sound is copied where that is right: the same codec, no more channels, nothing changed."""
    loudness: Loudness | None = None
    """None: as loud as the source."""


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
    segment_seconds: Annotated[float, Field(ge=0.5, le=30, allow_inf_nan=False)] = 4.0
    """Of HLS and DASH; a whole number of GOPs."""
    segment_format: SegmentFormat = SegmentFormat.FMP4
    """`ts` for HLS alone."""


class ClipRequest(Frozen):
    """A part of the source, in seconds from its first picture. The end is exclusive; None: to the source's end."""

    start: Seconds = 0.0
    end: Seconds | None = None


class WatermarkRequest(Frozen):
    artifact: ArtifactId
    """A PNG or JPEG image."""
    position: Corner = Corner.BOTTOM_RIGHT
    scale: Annotated[float, Field(ge=0.01, le=1, allow_inf_nan=False)] = 0.15
    """Its width, as a part of the picture's."""
    opacity: Annotated[float, Field(ge=0.01, le=1, allow_inf_nan=False)] = 1.0


class ThumbnailsRequest(Frozen):
    interval: Annotated[float, Field(ge=0.5, le=3600, allow_inf_nan=False)] = 10.0
    """Seconds."""
    height: Dimension = 180


class SpriteRequest(ThumbnailsRequest):
    """Thumbnails in grids, with a WebVTT that says where each is."""

    height: Annotated[int, Field(ge=MIN_SIDE, le=360)] = 90
    columns: Annotated[int, Field(ge=1, le=16)] = 10
    rows: Annotated[int, Field(ge=1, le=16)] = 10


class PosterRequest(Frozen):
    at: Seconds | None = None
    """Seconds from the first picture; None: a tenth of the way in."""
    height: Dimension | None = None
    """None: the source's."""


# The same with everything decided.


class Window(Frozen):
    """From `start_us` up to `end_us` (exclusive): presentation times on the source's timeline."""

    start_us: Instant
    end_us: Instant

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.end_us <= self.start_us:
            raise ValueError(f"expected a window that ends after it starts, got {self.start_us} to {self.end_us}")
        return self

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us


class Rendition(RateControl):
    """One step of the ladder."""

    name: Name
    width: Dimension
    height: Dimension
    codec: VideoCodec
    profile: Profile | None = None
    level: Level | None = None
    fps: FrameRate | None = None
    """None: the source's frames, at the source's times."""
    pixel_format: PixelFormat = PixelFormat.YUV420P
    audio: Annotated[tuple[Name, ...], Field(max_length=MAX_AUDIO_RENDITIONS)] = ()
    """The audio renditions that go with it, the default first."""

    @model_validator(mode="after")
    def _decided(self) -> Self:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width and height must be even, got {self.width}x{self.height}")
        if self.bitrate is None and self.quality is None:
            raise ValueError("a bitrate or a quality must be decided")
        return self


class AudioRendition(Frozen):
    name: Name
    track: Track
    codec: AudioCodec
    bitrate: Bitrate | None
    """None: the source's packets are copied."""
    channels: Annotated[int, Field(ge=1, le=8)]
    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)]
    """Hz."""
    loudness: Loudness | None = None
    language: Language | None = None

    @model_validator(mode="after")
    def _copied_as_it_is(self) -> Self:
        if self.bitrate is None and self.loudness is not None:
            raise ValueError("sound that is copied keeps its loudness")
        return self


class SubtitleRendition(Frozen):
    """A text track of the source, as WebVTT."""

    name: Name
    track: Track
    language: Language | None = None


class Watermark(Frozen):
    artifact: ArtifactId
    size: int = Field(ge=1)
    """Bytes."""
    format: ImageFormat
    position: Corner
    scale: Annotated[float, Field(gt=0, le=1)]
    opacity: Annotated[float, Field(gt=0, le=1)]


class Picture(Frozen):
    """What is done to the pictures before they are scaled for each rendition."""

    gop_us: Annotated[int, Field(ge=100_000, le=30_000_000)] = 2_000_000
    """Keyframes are forced at the first frame of each such cell of the job's timeline."""
    deinterlace: bool = False
    tone_map: bool = False
    watermark: Watermark | None = None


class Thumbnails(Frozen):
    """One JPEG each `interval_us`, one after the other in one file."""

    interval_us: Annotated[int, Field(ge=500_000)]
    width: Dimension
    height: Dimension


class Sprite(Thumbnails):
    """JPEG grids of `columns` by `rows` thumbnails, one after the other in one file."""

    columns: Annotated[int, Field(ge=1, le=16)]
    rows: Annotated[int, Field(ge=1, le=16)]


class Poster(Frozen):
    at_us: Instant
    """On the source's timeline."""
    width: Dimension
    height: Dimension


class Stills(Frozen):
    thumbnails: Thumbnails | None = None
    sprite: Sprite | None = None
    poster: Poster | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files."""
        kinds = (("thumbnails", self.thumbnails), ("sprite", self.sprite), ("poster", self.poster))
        return tuple(name for name, asked in kinds if asked is not None)
