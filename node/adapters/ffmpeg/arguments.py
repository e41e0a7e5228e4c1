"""The command line of a transcode, a pure function of checked numbers and enums; no text of a submitter gets in.

One decode feeds all renditions:

    input ── trim ── split ─┬─ scale, setsar, format ── encoder ── first.mp4
                            └─ scale, setsar, format ── encoder ── second.mp4

Frames pass with the times they came with: nothing is duplicated or dropped to reach a constant rate, so an output has
as many frames as its source, and a file that claims a frame now and one in five hours does not become half a million.
"""

from enum import StrEnum
from pathlib import Path
from typing import Any

import ffmpeg

from tandem.inspection.accepted import DEMUXER_OPTIONS, MAX_PIXELS
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Rendition

MAX_THREADS = 16
"""Of each decoder and encoder: more gain little, and each holds frames in memory."""

_GOP_SECONDS = 2
_MAX_GOP_FRAMES = 1200
_TIME_BASE = "1:90000"
_PEAK = (3, 2)
_BUFFER_SECONDS = 2
_MAX_ALLOC = 2**30
_SMALLEST_NVENC = (160, 64)
_MICRO = 10**6
_SPARE_FRAMES = 50
_ALWAYS = ("-hide_banner", "-nostdin", "-y", "-loglevel", "error", "-max_alloc", str(_MAX_ALLOC))
_PROGRESS = ("-nostats", "-progress", "pipe:1", "-stats_period", "0.25")


class VideoEncoder(StrEnum):
    """What encodes H.264; each is known by ffmpeg's name for it."""

    X264 = "libx264"
    NVENC = "h264_nvenc"


_ENCODER_OPTIONS: dict[VideoEncoder, dict[str, Any]] = {
    VideoEncoder.X264: {"preset": "veryfast", "sc_threshold": 0},
    VideoEncoder.NVENC: {"preset": "p4", "rc": "vbr", "no-scenecut": 1, "forced-idr": 1},
}


SLACK_US = 2_000_000
"""How much longer than its source an output may run before it is cut, in microseconds."""


def file_name(rendition: str) -> str:
    return f"{rendition}.mp4"


def build(work: TranscodeWork, source: Path, folder: Path, encoder: VideoEncoder, threads: int) -> list[str]:
    """What follows the program's name. Both paths are absolute; each rendition goes to `folder/NAME.mp4`.

    `threads` bounds those of the decoder and of each encoder.
    """
    # `-protocol_whitelist` and its like hold for an input, so they are given with it. The prefix `file:` keeps a path
    # from being read as another protocol.
    media = ffmpeg.input(f"file:{source}", **DEMUXER_OPTIONS, max_pixels=MAX_PIXELS, threads=threads)
    pictures = _pictures(media, work)
    sounds = _sounds(media, work)
    outputs = [
        ffmpeg.output(
            *(stream for stream in (pictures[rendition.name], sounds.get(rendition.name)) if stream is not None),
            f"file:{folder / file_name(rendition.name)}",
            **_options(work, rendition, encoder),
            # No more than is paid for, whatever the source turns out to hold.
            **{"frames:v": _most_frames(work)},
            **{"threads:v": threads},
        )
        for rendition in work.video
    ]
    return [*_ALWAYS, *_PROGRESS, *ffmpeg.get_args(ffmpeg.merge_outputs(*outputs))]


def _pictures(media: Any, work: TranscodeWork) -> dict[str, Any]:
    """The scaled video of each rendition, by name. `V` leaves out cover art."""
    copies = media["V:0"].filter("trim", duration=_bound(work)).filter_multi_output("split", len(work.video))
    return {
        rendition.name: copies.stream(index)
        .filter("scale", rendition.width, rendition.height)
        .filter("setsar", 1)
        .filter("format", "yuv420p")
        for index, rendition in enumerate(work.video)
    }


def _sounds(media: Any, work: TranscodeWork) -> dict[str, Any]:
    """The stereo sound of each rendition that has any, by name."""
    names = [rendition.name for rendition in work.video if rendition.audio]
    if not names:
        return {}
    stereo = media["a:0"].filter("atrim", duration=_bound(work)).filter("aformat", channel_layouts="stereo")
    copies = stereo.filter_multi_output("asplit", len(names))
    return {name: copies.stream(index) for index, name in enumerate(names)}


def _bound(work: TranscodeWork) -> str:
    """The most seconds that an output may hold, counted from its stream's first frame.

    Not the option `-t`, which counts from the file's start and would cut a video that begins after its sound.
    """
    return f"{(work.media.duration_us + SLACK_US) / _MICRO:.6f}"


def _most_frames(work: TranscodeWork) -> int:
    """What the source was said to have, and some, since counting packets is not quite counting pictures."""
    counted = work.media.video.frames if work.media.video else 0
    return counted + counted // 20 + _SPARE_FRAMES


def _options(work: TranscodeWork, rendition: Rendition, encoder: VideoEncoder) -> dict[str, Any]:
    return {
        "format": "mp4",
        "movflags": "+faststart",
        "map_metadata": -1,
        "map_chapters": -1,
        "fps_mode:v": "passthrough",
        "enc_time_base:v": _TIME_BASE,
        **_video(rendition, encoder),
        **_audio(work, rendition),
    }


def _video(rendition: Rendition, encoder: VideoEncoder) -> dict[str, Any]:
    rate, (times, per) = rendition.bitrate or 0, _PEAK
    chosen = _encoder_for(rendition, encoder)
    return {
        "c:v": str(chosen),
        "b:v": rate,
        "maxrate:v": rate * times // per,
        "bufsize:v": rate * _BUFFER_SECONDS,
        "g": _MAX_GOP_FRAMES,
        # Times, not frame numbers, so that all renditions have their key frames at the same places.
        "force_key_frames:v": f"expr:if(isnan(prev_forced_t),1,gte(t,prev_forced_t+{_GOP_SECONDS}))",
        **_ENCODER_OPTIONS[chosen],
    }


def _encoder_for(rendition: Rendition, encoder: VideoEncoder) -> VideoEncoder:
    """NVENC refuses tiny pictures."""
    width, height = _SMALLEST_NVENC
    return encoder if rendition.width >= width and rendition.height >= height else VideoEncoder.X264


def _audio(work: TranscodeWork, rendition: Rendition) -> dict[str, Any]:
    return next(({"c:a": "aac", "b:a": each.bitrate} for each in work.audio if each.name in rendition.audio), {})
