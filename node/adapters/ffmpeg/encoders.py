"""The encoders, and how each is told what a rendition asks for."""

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from tandem.protocol.ladder import PixelFormat, Rendition
from tandem.protocol.placement import NVENC_SUFFIX, VIDEO_ENCODERS, encoder_for

_MAX_GOP_FRAMES = 1200
_PEAK = (3, 2)
_BUFFER_SECONDS = 2
_SMALLEST_NVENC = (160, 64)
_VP9_TILE_WIDTH = 256


class VideoEncoder(StrEnum):
    """Each is known by ffmpeg's name for it."""

    X264 = "libx264"
    NVENC = "h264_nvenc"
    X265 = "libx265"
    HEVC_NVENC = "hevc_nvenc"
    VP9 = "libvpx-vp9"
    SVT_AV1 = "libsvtav1"
    AV1_NVENC = "av1_nvenc"

    @property
    def hardware(self) -> bool:
        return self.endswith(NVENC_SUFFIX)


SOFTWARE = tuple(each for each in VideoEncoder if not each.hardware)


def choose(rendition: Rendition, known: Collection[str]) -> VideoEncoder:
    """The fastest of the known encoders that takes such pictures: NVENC refuses tiny ones, and 10 bits of H.264.

    Raises ValueError if there is none, which placement rules out.
    """
    least_width, least_height = _SMALLEST_NVENC
    odd = rendition.width < least_width or rendition.height < least_height
    deep = (
        rendition.pixel_format is not PixelFormat.YUV420P and VIDEO_ENCODERS[rendition.codec][0] == VideoEncoder.NVENC
    )
    fitting = [each for each in known if not (each.endswith(NVENC_SUFFIX) and (odd or deep))]
    return VideoEncoder(encoder_for(rendition.codec, fitting))


def options(rendition: Rendition, encoder: VideoEncoder, threads: int) -> dict[str, Any]:
    """Codec, rate, profile and level of one output's video."""
    return {
        "c:v": str(encoder),
        "g": _MAX_GOP_FRAMES,
        "threads:v": threads,
        **_rate(rendition, encoder),
        **_tuning(rendition, encoder, threads),
    }


def _rate(rendition: Rendition, encoder: VideoEncoder) -> dict[str, Any]:
    if rendition.bitrate is not None:
        bounds = {} if encoder is VideoEncoder.SVT_AV1 else _bounds(rendition.bitrate * _PEAK[0] // _PEAK[1])
        return {"b:v": rendition.bitrate, **bounds}
    quality, most = rendition.quality, rendition.max_bitrate
    if encoder is VideoEncoder.VP9:
        return {"crf": quality, "b:v": most or 0}
    bounds = {} if most is None else _bounds(most)
    return {"cq": quality, "b:v": 0, **bounds} if encoder.hardware else {"crf": quality, **bounds}


def _bounds(most: int) -> dict[str, Any]:
    return {"maxrate:v": most, "bufsize:v": most * _PEAK[1] * _BUFFER_SECONDS // _PEAK[0]}


def _tuning(rendition: Rendition, encoder: VideoEncoder, threads: int) -> dict[str, Any]:
    """Speed, and closed GOPs with keyframes where they are forced and nowhere else."""
    profile = {} if rendition.profile is None else {"profile:v": str(rendition.profile)}
    level = {} if rendition.level is None else {"level:v": rendition.level}
    match encoder:
        case VideoEncoder.X264:
            return {"preset": "veryfast", "sc_threshold": 0, "forced-idr": 1, **profile, **level}
        case VideoEncoder.X265:
            words = ["log-level=error", "scenecut=0", "open-gop=0", f"pools={threads}"]
            words += [] if rendition.level is None else [f"level-idc={rendition.level}"]
            # Captions among the pictures are kept; an ffmpeg whose libx265 cannot leaves the option alone.
            return {"preset": "veryfast", "forced-idr": 1, "a53cc": 1, "x265-params": ":".join(words), **profile}
        case VideoEncoder.VP9:
            columns = max(0, (rendition.width // _VP9_TILE_WIDTH).bit_length() - 1)
            return {"deadline": "good", "cpu-used": 5, "row-mt": 1, "tile-columns": min(6, columns)}
        case VideoEncoder.SVT_AV1:
            return {"preset": 9, "svtav1-params": f"lp={min(threads, 6)}"}
        case VideoEncoder.NVENC | VideoEncoder.HEVC_NVENC | VideoEncoder.AV1_NVENC:
            return {"preset": "p4", "rc": "vbr", "no-scenecut": 1, "forced-idr": 1, **profile, **level}
