"""The ladder of renditions that follows from what is asked and what the source holds; refusals say why."""

from collections.abc import Mapping
from fractions import Fraction

from orchestrator.core.levels import level_fault
from tandem.protocol.errors import InvalidLadder
from tandem.protocol.ladder import (
    MAX_SIDE,
    MIN_SIDE,
    Hdr,
    PixelFormat,
    Profile,
    Rendition,
    RenditionRequest,
    VideoSettings,
)
from tandem.protocol.media import VideoCodec, VideoStream
from tandem.protocol.units import ceil_div

PEAK = Fraction(3, 2)
"""How far bits may pass the average bitrate for a while."""

_STEPS = (2160, 1440, 1080, 720, 480, 360, 240)
_FALLBACK_STEPS = 4
_BITS_PER_PIXEL_AND_FRAME = Fraction(9, 100)
_REFERENCE_PIXELS = 1280 * 720
_ROUND_TO = 10_000
_ASSUMED_FRAME_RATE = Fraction(30)
_RATE_TOLERANCE = Fraction(1001, 1000)
_SMALLEST = {VideoCodec.HEVC: 64, VideoCodec.AV1: 64}
"""Pixels a side: with less libx265 writes past its memory, and SVT-AV1 refuses."""
_NOMINAL = Fraction(128_000)
"""Millionths of a bit a pixel that the default bitrates are for, at 360 lines and 25 frames a second."""
_EASIEST, _HARDEST = Fraction(2, 5), Fraction(8, 5)
_SMALL = 480
_SMOOTH, _FASTEST = 31, 1000
"""Frames a second of which small pictures have half as many; more than the latter is no rate but a mistake."""
_LEAST_BITRATE = 100_000
_LARGEST_DENOMINATOR = 1001
_SCALES = {VideoCodec.H264: 51, VideoCodec.HEVC: 51, VideoCodec.VP9: 63, VideoCodec.AV1: 63}
_THRIFT = {VideoCodec.H264: 1.0, VideoCodec.HEVC: 0.65, VideoCodec.VP9: 0.7, VideoCodec.AV1: 0.55}
"""Bits for the same picture, relative to H.264."""
_PROFILES: Mapping[tuple[VideoCodec, PixelFormat], tuple[Profile, ...]] = {
    (VideoCodec.H264, PixelFormat.YUV420P): (Profile.HIGH, Profile.MAIN, Profile.BASELINE),
    (VideoCodec.H264, PixelFormat.YUV420P10): (Profile.HIGH10,),
    (VideoCodec.HEVC, PixelFormat.YUV420P): (Profile.MAIN,),
    (VideoCodec.HEVC, PixelFormat.YUV420P10): (Profile.MAIN10,),
}
"""The first is taken where none is asked for. Those of VP9 and AV1 follow from the pixel format."""


def even(value: int) -> int:
    """Rounded down."""
    return value - value % 2


def size_of(source: tuple[int, int], step: int) -> tuple[int, int]:
    """The picture whose shorter side is `step`, in even pixels and never larger than the source."""
    shorter, longer = sorted(source)
    scaled = min(2 * round(Fraction(longer * step, 2 * shorter)), even(longer))
    return (scaled, step) if source[0] >= source[1] else (step, scaled)


def default_bitrate(size: tuple[int, int], frame_rate: Fraction, codec: VideoCodec = VideoCodec.H264) -> int:
    """Bits a second: for H.264 0.09 bits a pixel and frame at 720p, falling with the 0.75th power of the area.

    The power is the usual rule of thumb for how bits scale with resolution at equal quality.
    """
    scale = (size[0] * size[1] / _REFERENCE_PIXELS) ** 0.75 * _THRIFT[codec]
    rate = _BITS_PER_PIXEL_AND_FRAME * _REFERENCE_PIXELS * min(frame_rate or _ASSUMED_FRAME_RATE, Fraction(60))
    return max(_LEAST_BITRATE, ceil_div(int(float(rate) * scale), _ROUND_TO) * _ROUND_TO)


def default_ladder(source: tuple[int, int]) -> tuple[RenditionRequest, ...]:
    """An ABR ladder that never upscales: the source's own size if it is small, and at most four steps.

    A source longer than a rendition may be is scaled down to fit. Raises InvalidLadder if nothing fits.
    """
    shorter, longer = sorted(source)
    if shorter < MIN_SIDE:
        raise InvalidLadder(f"expected a source of at least {MIN_SIDE} pixels a side, got {source[0]}x{source[1]}")
    largest = even(min(shorter, shorter * MAX_SIDE // longer))
    if largest < MIN_SIDE:
        raise InvalidLadder(f"expected sides at most {MAX_SIDE // MIN_SIDE} to 1, got {source[0]}x{source[1]}")
    steps = [step for step in _STEPS if step <= largest][:_FALLBACK_STEPS] or [largest]
    return tuple(RenditionRequest(height=step) for step in steps)


def automatic_ladder(source: VideoStream, complexity: int | None) -> tuple[RenditionRequest, ...]:
    """The default ladder for a source's size and rate, with bitrates for how hard this very video is to encode.

    `complexity`: millionths of a bit that a pixel of a small version takes at constant quality, or None. Small pictures
    of more than 30 frames a second have half as many: nobody who watches those misses them.
    """
    factor = _NOMINAL if complexity is None else Fraction(complexity)
    factor = min(_HARDEST, max(_EASIEST, factor / _NOMINAL))
    return tuple(_fitted(source, step, factor) for step in default_ladder(source.display_size))


def _fitted(source: VideoStream, step: RenditionRequest, factor: Fraction) -> RenditionRequest:
    rate, fps = Fraction(*source.frame_rate), None
    if step.height < _SMALL and _SMOOTH < rate <= _FASTEST and not source.variable_rate:
        rate /= 2
        fps = rate.as_integer_ratio() if rate.denominator <= _LARGEST_DENOMINATOR else None
    bitrate = ceil_div(int(default_bitrate(size_of(source.display_size, step.height), rate) * factor), _ROUND_TO)
    video = VideoSettings(bitrate=max(_LEAST_BITRATE, bitrate * _ROUND_TO), fps=fps)
    return step.model_copy(update={"video": video})


def decide_rendition(source: VideoStream, request: RenditionRequest, hdr: Hdr, audio: tuple[str, ...]) -> Rendition:
    """One step of the ladder; raises InvalidLadder with what cannot be had."""
    name = request.name or f"{request.height}p"
    video = request.video
    size = _size(source.display_size, request.height)
    keeps_hdr = source.color.hdr and hdr is Hdr.KEEP
    pixel_format = video.pixel_format or (PixelFormat.YUV420P10 if keeps_hdr else PixelFormat.YUV420P)
    frame_rate = Fraction(*(video.fps or source.frame_rate))
    constant = video.quality is not None
    bitrate = video.bitrate or (None if constant else default_bitrate(size, frame_rate, video.codec))
    peak = video.max_bitrate if constant else int((bitrate or 0) * PEAK)
    fault = (
        _hdr_fault(video, pixel_format, keeps_hdr=keeps_hdr)
        or _codec_fault(video, pixel_format, size)
        or _rate_fault(video, source)
        or (level_fault(video.codec, video.level, size, frame_rate, peak) if video.level is not None else None)
    )
    if fault is not None:
        raise InvalidLadder(f"rendition {name}: {fault}")
    return Rendition(
        name=name,
        width=size[0],
        height=size[1],
        codec=video.codec,
        bitrate=bitrate,
        quality=video.quality,
        max_bitrate=video.max_bitrate,
        profile=video.profile or _PROFILES.get((video.codec, pixel_format), (None,))[0],
        level=video.level,
        fps=video.fps,
        pixel_format=pixel_format,
        audio=audio,
    )


def _size(source: tuple[int, int], height: int) -> tuple[int, int]:
    if height % 2 or height > min(source):
        raise InvalidLadder(
            f"expected an even height of at most {min(source)} (the shorter side of the source, which is "
            f"{source[0]}x{source[1]}), got {height}; renditions are never upscaled"
        )
    size = size_of(source, height)
    if max(size) > MAX_SIDE:
        raise InvalidLadder(
            f"expected at most {MAX_SIDE} pixels a side, got {size[0]}x{size[1]}; ask for a lower height"
        )
    return size


def _hdr_fault(video: VideoSettings, pixel_format: PixelFormat, *, keeps_hdr: bool) -> str | None:
    if not keeps_hdr:
        return None
    if video.codec is VideoCodec.H264:
        return "HDR cannot be kept in h264; ask for hevc, vp9 or av1, or for hdr tone_map"
    if pixel_format is PixelFormat.YUV420P:
        return f"HDR cannot be kept in 8 bits; ask for {PixelFormat.YUV420P10} or for hdr tone_map"
    return None


def _codec_fault(video: VideoSettings, pixel_format: PixelFormat, size: tuple[int, int]) -> str | None:
    fitting = _PROFILES.get((video.codec, pixel_format), ())
    if video.profile is not None and video.profile not in fitting:
        if not fitting:
            return f"a profile cannot be set for {video.codec}, where it follows from the pixel format; leave it out"
        return f"expected a profile of {video.codec} with {pixel_format} ({', '.join(fitting)}), got {video.profile}"
    if video.quality is not None and video.quality > _SCALES[video.codec]:
        return f"expected a quality of {video.codec} from 0 to {_SCALES[video.codec]}, got {video.quality}"
    least = _SMALLEST.get(video.codec, 0)
    if min(size) < least:
        return f"expected at least {least} pixels a side for {video.codec}, got {size[0]}x{size[1]}"
    return None


def _rate_fault(video: VideoSettings, source: VideoStream) -> str | None:
    known = Fraction(*source.frame_rate)
    if video.fps is not None and known and Fraction(*video.fps) > known * _RATE_TOLERANCE:
        return f"expected at most the source's {float(known):g} frames a second, got {float(Fraction(*video.fps)):g}"
    return None
