"""The command line of a transcode, a pure function of checked numbers and enums; no text of a submitter gets in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ffmpeg

from node.adapters.ffmpeg import captions, encoders, sounds
from node.adapters.ffmpeg.encoders import SOFTWARE
from node.adapters.ffmpeg.graphs import apart
from node.adapters.ffmpeg.hardware import Route, encoders_on
from node.adapters.ffmpeg.pictures import Span, beginning_us, branches, keyframes_alone, seconds
from node.adapters.ffmpeg.sounds import Level
from tandem.inspection.accepted import DEMUXER_OPTIONS, MAX_PIXELS
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import AudioRendition, ImageFormat, PixelFormat, Rendition, Watermark
from tandem.protocol.media import VideoCodec
from tandem.protocol.timing import MARGIN_US, PICTURE_OFFSET_TICKS

MAX_THREADS = 16
"""Of each decoder and encoder: more gain little, and each holds frames in memory."""

_TIME_BASE = "1:90000"
_MOST_LISTED = 10_000
_MICRO = 10**6
_MAX_ALLOC = 2**30
_SEEK_MARGIN_US = 500_000
_COARSE_SEEKERS = ("mpegts", "mpeg")
"""Formats that seek by decoding time, and would pass by a keyframe that is decoded before it is shown."""
_COMMON = ("-hide_banner", "-nostdin", "-y", "-max_alloc", str(_MAX_ALLOC))
_QUIET = ("-loglevel", "error")
_PROGRESS = ("-nostats", "-progress", "pipe:1", "-stats_period", "0.25")
_GPU = ("-init_hw_device", "cuda=cu:0", "-filter_hw_device", "cu")
_IMAGES = {ImageFormat.PNG: ("png_pipe", "png"), ImageFormat.JPEG: ("jpeg_pipe", "mjpeg")}
_TRANSPORT = {VideoCodec.H264: "ts", VideoCodec.HEVC: "ts", VideoCodec.VP9: "ivf", VideoCodec.AV1: "ivf"}
_MUXERS: Mapping[str, Mapping[str, Any]] = {
    "ts": {"format": "mpegts", "muxdelay": 0, "muxpreload": 0, "avoid_negative_ts": "disabled"},
    "ivf": {"format": "ivf"},
    "mp4": {"format": "mp4", "movflags": "+faststart"},
    "jpg": {"format": "image2pipe", "c:v": "mjpeg", "q:v": 4},
    "vtt": {"format": "webvtt", "c:s": "webvtt"},
}


@dataclass(frozen=True, slots=True)
class Means:
    """What a command line is built from besides the work. Paths are absolute."""

    source: Path
    folder: Path
    """Where each file goes, by the name that `files` gives it."""
    logo: Path | None = None
    encoders: tuple[str, ...] = SOFTWARE
    """ffmpeg's names of those that may be used."""
    route: Route = Route.CPU
    threads: int = 1
    """Bounds those of the decoder and of each encoder."""
    levels: Mapping[str, Level] = field(default_factory=dict)
    """By audio rendition: what the first pass measured."""


def files(work: TranscodeWork, folder: Path) -> dict[str, Path]:
    """The path of each file of the output, by name."""
    kinds = {each.name: "mp4" if work.direct else _TRANSPORT[each.codec] for each in work.video}
    kinds |= {each.name: "vtt" for each in work.subtitles}
    kinds |= dict.fromkeys(work.stills.names if work.stills else (), "jpg")
    return {name: folder / f"{name}.{kinds.get(name, 'mp4')}" for name in work.names}


def build(work: TranscodeWork, means: Means) -> list[str]:
    """What follows the program's name."""
    outputs = list(_outputs(work, means))
    device = _GPU if means.route is Route.GPU else ()
    arguments = apart(ffmpeg.get_args(ffmpeg.merge_outputs(*outputs)))
    return [*_common(work), *_QUIET, *_PROGRESS, *device, *arguments]


def build_measurement(work: TranscodeWork, asked: AudioRendition, means: Means) -> list[str]:
    """What measures the loudness of one audio rendition's sound; the answer is on stderr."""
    sound = sounds.measurement(_input(work, means)[f"a:{asked.track}"], work, asked)
    return [*_common(work), "-loglevel", "info", "-nostats", *ffmpeg.get_args(ffmpeg.output(sound, "-", format="null"))]


def _common(work: TranscodeWork) -> Iterator[str]:
    yield from _COMMON
    if not work.media.jumps:  # which ffmpeg mends only where times need not stay as they are
        yield "-copyts"


def _outputs(work: TranscodeWork, means: Means) -> Iterator[Any]:
    media, paths = _input(work, means), files(work, means.folder)
    pictures = _pictures(media, work, means)
    muted = _sounds(media, work, means)
    for rendition in work.video:
        tracks = [muted[(rendition.name, name)] for name in rendition.audio] if work.direct else []
        extra = _sound_options(work, rendition) if work.direct else {}
        yield _output(
            paths[rendition.name], pictures[rendition.name], *tracks, **_video(work, rendition, means), **extra
        )
    for sound in () if work.direct else work.audio:
        copied = {} if sound.bitrate is not None else {"output_ts_offset": seconds(-beginning_us(work))}
        yield _output(paths[sound.name], muted[("", sound.name)], **sounds.options(sound), **copied)
    for name in work.stills.names if work.stills else ():
        yield _output(
            paths[name], pictures[name], **{"fps_mode:v": "passthrough", "frames:v": _most_stills(work, name)}
        )
    yield from _subtitles(media, work, means)


def _output(path: Path, *streams: Any, **options: Any) -> Any:
    # The prefix `file:` keeps a path from being read as another protocol.
    tidy = {"map_metadata": -1, "map_chapters": -1, **_MUXERS[path.suffix[1:]]}
    return ffmpeg.output(*streams, f"file:{path}", **tidy | options)


def _input(work: TranscodeWork, means: Means, **more: Any) -> Any:
    """`-protocol_whitelist` and its like hold for an input, so they are given with it."""
    options: dict[str, Any] = {**DEMUXER_OPTIONS, "max_pixels": MAX_PIXELS, "threads": means.threads, **more}
    if work.seek_us is not None:
        early = _SEEK_MARGIN_US if work.media.format in _COARSE_SEEKERS else 0
        options |= {"ss": seconds(work.seek_us - early), "seek_timestamp": 1, "noaccurate_seek": None}
    if keyframes_alone(work):
        options |= {"skip_frame": "nokey"}
    if means.route.decodes:
        options |= {"hwaccel": "cuda"} | ({"hwaccel_output_format": "cuda"} if means.route is Route.GPU else {})
    return ffmpeg.input(f"file:{means.source}", **options)


def _pictures(media: Any, work: TranscodeWork, means: Means) -> dict[str, Any]:
    """`V` leaves out cover art."""
    if not (work.video or work.stills):
        return {}
    logo = _logo(work.picture.watermark, means.logo) if work.video and work.picture.watermark else None
    offset = 0 if work.direct else PICTURE_OFFSET_TICKS
    return branches(media["V:0"], logo, work, offset, on_gpu=means.route is Route.GPU)


def _logo(watermark: Watermark, path: Path | None) -> Any:
    demuxer, decoder = _IMAGES[watermark.format]
    guards = {"protocol_whitelist": "file", "codec_whitelist": decoder, "max_pixels": MAX_PIXELS}
    return ffmpeg.input(f"file:{path}", format=demuxer, **guards)["v:0"]


def _video(work: TranscodeWork, rendition: Rendition, means: Means) -> dict[str, Any]:
    encoder = encoders.choose(rendition, encoders_on(means.route, means.encoders))
    return {
        **encoders.options(rendition, encoder, means.threads),
        # The latter leaves out what comes at a time that another picture had.
        "fps_mode:v": "passthrough" if work.media.splittable else "vfr",
        "enc_time_base:v": _TIME_BASE,
        "force_key_frames:v": _keyframes(work),
        **_color(work, rendition),
    }


def _keyframes(work: TranscodeWork) -> str:
    """At the first frame of each cell of the job's time, so that all renditions and windows have them alike.

    The cells' beginnings are listed. Of more than fit on a command line an expression has to do, which knows times from
    the first frame on: that is not always the job's beginning.
    """
    gop, span = work.picture.gop_us, Span.of(work)
    cells = range(span.start // gop + 1, -(-span.end // gop))
    if len(cells) < _MOST_LISTED:
        offset = 0 if work.direct else PICTURE_OFFSET_TICKS * 100 // 9
        return ",".join(["0", *(f"{(cell * gop + offset - MARGIN_US) / _MICRO:.3f}" for cell in cells)])
    cell = f"floor(({{}}+{seconds(MARGIN_US)})/{seconds(gop)})"
    return f"expr:if(isnan(prev_forced_t),1,gt({cell.format('t')},{cell.format('prev_forced_t')}))"


def _color(work: TranscodeWork, rendition: Rendition) -> dict[str, str]:
    """HDR that is kept is said to be HDR."""
    color = work.media.video.color if work.media.video else None
    if color is None or not color.hdr or rendition.pixel_format is PixelFormat.YUV420P:
        return {}
    names = {"color_primaries": color.primaries, "color_trc": color.transfer, "colorspace": color.matrix}
    return {option: name for option, name in names.items() if name is not None}


def _sound_options(work: TranscodeWork, rendition: Rendition) -> dict[str, Any]:
    """Of the sound in a rendition's own file; all tracks of it are made alike."""
    by_name = {each.name: each for each in work.audio}
    heard = [by_name[name] for name in rendition.audio]
    spoken = {f"metadata:s:a:{index}": f"language={each.language}" for index, each in enumerate(heard) if each.language}
    return {**(sounds.options(heard[0]) if heard else {}), **spoken}


def _sounds(media: Any, work: TranscodeWork, means: Means) -> dict[tuple[str, str], Any]:
    """The sound of each file by the rendition it comes with, if it is in one, and its own name."""
    found: dict[tuple[str, str], Any] = {}
    users = {each.name: [video.name for video in work.video if each.name in video.audio] for each in work.audio}
    if not work.direct:
        users = {each.name: [""] for each in work.audio}
    tracks = _tracks(media, [each for each in work.audio if each.bitrate is not None and users[each.name]])
    for asked in work.audio:
        if asked.bitrate is None:
            source = _input(work, means, itsoffset=seconds(-beginning_us(work))) if work.direct else media
            found |= {(user, asked.name): source[f"a:{asked.track}"] for user in users[asked.name]}
        elif asked.name in tracks:
            sound = sounds.encoded(tracks[asked.name], work, asked, means.levels.get(asked.name))
            copies = sound.filter_multi_output("asplit", len(users[asked.name]))
            found |= {(user, asked.name): copies.stream(index) for index, user in enumerate(users[asked.name])}
    return found


def _tracks(media: Any, encoded: Sequence[AudioRendition]) -> dict[str, Any]:
    """A copy of its track for each audio rendition, without which equal filters of two would be taken for one."""
    asked: dict[int, list[str]] = {}
    for each in encoded:
        asked.setdefault(each.track, []).append(each.name)
    copies = {track: media[f"a:{track}"].filter_multi_output("asplit", len(names)) for track, names in asked.items()}
    return {name: copies[track].stream(index) for track, names in asked.items() for index, name in enumerate(names)}


def _subtitles(media: Any, work: TranscodeWork, means: Means) -> Iterator[Any]:
    """From the file's beginning on, since a cue may be shown from long before a clip."""
    paths, offset = files(work, means.folder), seconds(captions.offset_us(work))
    source = media if work.seek_us is None else _input(work.model_copy(update={"seek_us": None}), means)
    for each in work.subtitles:
        yield _output(paths[each.name], source[f"s:{each.track}"], output_ts_offset=offset)


def _most_stills(work: TranscodeWork, name: str) -> int:
    stills = work.stills
    asked = None if stills is None or name == "poster" else getattr(stills, name)
    return 1 if asked is None else work.duration_us // asked.interval_us + 2
