"""The ways through a machine with a GPU, best first, and which of them a task may take.

What a GPU decodes is found by trial at the node's start and kept by source codec. A way that fails on a task all the
same is left out for that codec for some minutes, and the task goes the next way.
"""

from collections.abc import Collection
from enum import StrEnum

from node.adapters.ffmpeg.encoders import SOFTWARE, VideoEncoder, choose
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.media import VideoStream
from tandem.protocol.placement import encoder_for


class Route(StrEnum):
    GPU = "gpu"
    """Decoding, scaling and encoding; frames never leave the GPU."""
    NVENC = "nvenc"
    """Decoding and scaling on the CPU."""
    NVDEC = "nvdec"
    """Scaling and encoding on the CPU: of cards without an encoder, such as H100, H200 and A100."""
    CPU = "cpu"

    @property
    def decodes(self) -> bool:
        return self in {Route.GPU, Route.NVDEC}

    @property
    def encodes(self) -> bool:
        return self in {Route.GPU, Route.NVENC}


def routes(
    work: TranscodeWork, encoders: Collection[str], decoders: Collection[str], failed: Collection[tuple[str, Route]]
) -> tuple[Route, ...]:
    """The ways to try, best first; never none. `failed` holds source codecs with ways that failed them."""
    video = work.media.video
    codec = video.codec if video is not None else ""
    decodable = video is not None and _decodable(video, decoders)
    possible = {
        Route.GPU: decodable and _encodable(work, encoders) and _plain(work),
        Route.NVENC: _encodable(work, encoders),
        Route.NVDEC: decodable,
        Route.CPU: True,
    }
    untried = [route for route, fits in possible.items() if fits and (codec, route) not in failed]
    return tuple(route for route in untried if _has(work, encoders, route)) or (Route.CPU,)


def encoders_on(route: Route, encoders: Collection[str]) -> tuple[str, ...]:
    """Those of the known ones that are used on this way."""
    return tuple(each for each in encoders if route.encodes or each in SOFTWARE)


def _has(work: TranscodeWork, encoders: Collection[str], route: Route) -> bool:
    usable = encoders_on(route, encoders)
    return all(encoder_for(rendition.codec, usable) for rendition in work.video)


def _decodable(video: VideoStream, decoders: Collection[str]) -> bool:
    deep = video.bit_depth > 8 and video.codec == "h264"  # noqa: PLR2004 - bits; no card decodes such H.264
    return video.codec in decoders and video.pixel_format.startswith("yuv420p") and not deep


def _encodable(work: TranscodeWork, encoders: Collection[str]) -> bool:
    if not work.video or not any(VideoEncoder(each).hardware for each in encoders):
        return False
    return all(choose(rendition, encoders).hardware for rendition in work.video)


def _plain(work: TranscodeWork) -> bool:
    """Nothing that only the CPU's filters do."""
    picture = work.picture
    return not (picture.deinterlace or picture.tone_map or picture.watermark or work.stills)
