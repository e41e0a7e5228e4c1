"""The filter graph of the pictures: one decode, then a branch for each rendition and each kind of stills.

    source ── deinterlace ── job's time ─┬─ fps ── window ── scale ── watermark ── format ── rendition
                                         └─ one frame each interval ── scale ── tile ── sprite

The job's time counts ticks of 1/90000 s from the job's beginning. Frames keep the times that they came with: nothing is
duplicated or dropped to reach a constant rate unless a rate is asked for, so a file that claims a frame now and one in
five hours does not become half a million.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Corner, PixelFormat, Poster, Rendition, Sprite, Thumbnails, Watermark
from tandem.protocol.media import Color
from tandem.protocol.timing import MARGIN_US, TICKS, ticks
from tandem.protocol.units import ceil_div

SLACK_US = 2_000_000
"""How much longer than it should an output may run before it is cut, in microseconds."""

_MICRO = 10**6
_SPARE_FRAMES = 50
_NOMINAL_WHITE = 203
"""Candelas a square metre of diffuse white in HDR (Rec. ITU-R BT.2408)."""
_EDGE = "0.03"
"""Between the watermark and the picture's edge, as a part of the picture's height."""
_PLACES = {
    Corner.TOP_LEFT: (f"{_EDGE}*H", f"{_EDGE}*H"),
    Corner.TOP_RIGHT: (f"W-w-{_EDGE}*H", f"{_EDGE}*H"),
    Corner.BOTTOM_LEFT: (f"{_EDGE}*H", f"H-h-{_EDGE}*H"),
    Corner.BOTTOM_RIGHT: (f"W-w-{_EDGE}*H", f"H-h-{_EDGE}*H"),
    Corner.CENTER: ("(W-w)/2", "(H-h)/2"),
}


def seconds(us: int) -> str:
    return f"{us / _MICRO:.6f}"


def beginning_us(work: TranscodeWork) -> int:
    """When the job begins, as ffmpeg counts: of a file whose clock jumps, from the first time of a stream in use."""
    media = work.media
    if not media.jumps or media.video is None:
        return work.origin_us
    used = [media.audio[each.track].start_us for each in work.audio]
    return work.origin_us - min([*used, media.video.start_us] if work.video or work.stills or not used else used)


@dataclass(frozen=True, slots=True)
class Span:
    """Of the job's time, in microseconds: what a task keeps."""

    start: int
    end: int

    @classmethod
    def of(cls, work: TranscodeWork) -> "Span":
        kept = work.window or work.clip
        if kept is None:  # to the very end, however long the file says it is
            return cls(0, work.duration_us + SLACK_US)
        return cls(kept.start_us - work.origin_us, kept.end_us - work.origin_us)


def keyframes_alone(work: TranscodeWork) -> bool:
    """Whether only those are decoded: stills by themselves need no more, and hours of pictures would take long.

    A clip may be without a keyframe.
    """
    return not work.video and work.stills is not None and work.clip is None


def branches(source: Any, logo: Any, work: TranscodeWork, offset: int, *, on_gpu: bool) -> dict[str, Any]:
    """The stream of each file that is made of pictures, by name; `offset` is added to their times, in ticks."""
    makers = list(_makers(logo, work, offset, on_gpu=on_gpu))
    common = _gpu_frames(source) if on_gpu else _common(source, work)
    common = common.filter("settb", f"1/{TICKS}").filter("setpts", f"PTS-({ticks(beginning_us(work))})")
    if not any(rendition.fps for rendition in work.video):  # a new rate looks at frames from before the window
        common = _cut(common, work)
    if work.picture.tone_map:
        common = _tone_map(common, work)
    copies = common.filter_multi_output("split", len(makers))
    return {name: make(copies.stream(index)) for index, (name, make) in enumerate(makers)}


def _makers(logo: Any, work: TranscodeWork, offset: int, *, on_gpu: bool) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    marks = logo.filter_multi_output("split", len(work.video)) if logo is not None and work.video else None
    for index, rendition in enumerate(work.video):
        mark = None if marks is None else marks.stream(index)
        if on_gpu:
            yield rendition.name, _scaler_on_gpu(rendition, work, offset)
        else:
            yield rendition.name, _renderer(rendition, mark, work, offset)
    stills = work.stills
    if stills is not None and stills.thumbnails is not None:
        yield "thumbnails", _thumbnailer(stills.thumbnails, work)
    if stills is not None and stills.sprite is not None:
        yield "sprite", _thumbnailer(stills.sprite, work)
    if stills is not None and stills.poster is not None:
        yield "poster", _poster(stills.poster, work)


def _common(source: Any, work: TranscodeWork) -> Any:
    return source.filter("bwdif", mode="send_frame", deint="interlaced") if work.picture.deinterlace else source


def _gpu_frames(source: Any) -> Any:
    return source.filter("format", "nv12|p010le|cuda").filter("hwupload")


def _cut(stream: Any, work: TranscodeWork) -> Any:
    span = Span.of(work)
    return stream.filter("trim", start=seconds(span.start - MARGIN_US), end=seconds(span.end - MARGIN_US))


def _tone_map(stream: Any, work: TranscodeWork) -> Any:
    """To BT.709, at the size of the largest rendition, since every pixel costs."""
    video = work.media.video
    color = video.color if video is not None else Color()
    width, height = max(((each.width, each.height) for each in work.video), default=(0, 0))
    scaled = stream.filter("scale", width, height).filter("setsar", 1) if width else stream
    said = scaled.filter(  # what the file leaves out is what HDR always has
        "setparams",
        color_trc=color.transfer,
        color_primaries=color.primaries or "bt2020",
        colorspace=color.matrix or "bt2020nc",
        range=color.range or "tv",
    )
    linear = said.filter("zscale", transfer="linear", npl=_NOMINAL_WHITE)
    mapped = (
        linear.filter("format", "gbrpf32le").filter("zscale", primaries="bt709").filter("tonemap", "hable", desat=0)
    )
    return mapped.filter("zscale", transfer="bt709", matrix="bt709", range="tv").filter("format", "yuv420p")


def _renderer(rendition: Rendition, mark: Any, work: TranscodeWork, offset: int) -> Callable[[Any], Any]:
    def render(stream: Any) -> Any:
        if any(each.fps for each in work.video):
            timed = stream if rendition.fps is None else stream.filter("fps", f"{rendition.fps[0]}/{rendition.fps[1]}")
            stream = _cut(timed.filter("settb", f"1/{TICKS}"), work)  # boundaries are rounded to the time base
        scaled = stream.filter("scale", rendition.width, rendition.height, out_range="tv").filter("setsar", 1)
        shown = scaled if mark is None or work.picture.watermark is None else _marked(scaled, mark, rendition, work)
        return _delivered(shown.filter("format", str(rendition.pixel_format)), rendition, work, offset)

    return render


def _scaler_on_gpu(rendition: Rendition, work: TranscodeWork, offset: int) -> Callable[[Any], Any]:
    turn = _TURNS.get(work.media.video.rotation if work.media.video else 0)
    layout = "nv12" if rendition.pixel_format is PixelFormat.YUV420P else "p010le"

    def render(stream: Any) -> Any:
        size = (rendition.width, rendition.height)
        upright = stream if turn is None else stream.filter("transpose_cuda", dir=turn)
        return _delivered(upright.filter("scale_cuda", *size, format=layout), rendition, work, offset)

    return render


_TURNS = {90: "clock", 180: "reversal", 270: "cclock"}
"""Frames on the GPU are not turned by themselves."""


def _delivered(stream: Any, rendition: Rendition, work: TranscodeWork, offset: int) -> Any:
    """A picture that counts as on the job's beginning, though a little before it, is shown at it.

    No more than is paid for, whatever the source turns out to hold. That is not said by `-frames`, which in ffmpeg from
    6 on ends the sound with the pictures.
    """
    expected = work.frames_of(rendition)
    bounded = stream.filter("trim", end_frame=expected + expected // 20 + _SPARE_FRAMES)
    return bounded.filter("settb", f"1/{TICKS}").filter("setpts", f"max(PTS,0)+{offset}")


def _marked(stream: Any, mark: Any, rendition: Rendition, work: TranscodeWork) -> Any:
    watermark = work.picture.watermark
    assert watermark is not None  # noqa: S101 - asked before
    x, y = _PLACES[watermark.position]
    depth = "yuv420" if rendition.pixel_format is PixelFormat.YUV420P else "yuv420p10"
    return stream.overlay(_logo(mark, rendition, watermark), x=x, y=y, format=depth)


def _logo(mark: Any, rendition: Rendition, watermark: Watermark) -> Any:
    """A picture of its own size, no higher than the rendition, shown from before the job begins."""
    width, height = max(1, round(rendition.width * watermark.scale)), rendition.height
    size = (f"round(max(1,min({width},{height}*a)))", f"round(max(1,min({height},{width}/a)))")
    scaled = mark.filter("format", "rgba").filter("scale", *size)
    return scaled.filter("colorchannelmixer", aa=f"{watermark.opacity:.4f}").filter("setpts", "PTS-STARTPTS-1/TB")


def _thumbnailer(asked: Thumbnails, work: TranscodeWork) -> Callable[[Any], Any]:
    """The first frame of each interval; where there is none, the one before again."""
    interval, count = seconds(asked.interval_us), ceil_div(work.duration_us, asked.interval_us)
    # A clip may begin long before its first frame. Else that would be said again, wrongly, where the size changes.
    begin = {"start_time": 0} if work.clip is not None else {}

    def pick(stream: Any) -> Any:
        cell, last = f"floor(t/{interval})", f"floor(prev_selected_t/{interval})"
        first = stream.filter("select", f"if(isnan(prev_selected_t),1,gt({cell},{last}))")
        each = first.filter("fps", fps=f"{_MICRO}/{asked.interval_us}", round="down", eof_action="pass", **begin)
        small = _still(_extended(each, end_frame=count), asked.width, asked.height)
        return small.filter("tile", f"{asked.columns}x{asked.rows}") if isinstance(asked, Sprite) else small

    return pick


def _poster(asked: Poster, work: TranscodeWork) -> Callable[[Any], Any]:
    """The first frame from a time on; of keyframes alone the last one up to it, since there may be none afterwards."""
    at = asked.at_us - work.origin_us

    def pick(stream: Any) -> Any:
        if not keyframes_alone(work):
            return stream.filter("select", f"gte(t,{seconds(at - MARGIN_US)})")
        # Two frames in so much time: the second is what has come by then.
        paced = stream.filter("fps", fps=f"{_MICRO}/{at + MARGIN_US}", round="up", start_time=0)
        return _extended(paced, start_frame=1, end_frame=2)

    return lambda stream: _still(pick(stream), asked.width, asked.height)


def _extended(stream: Any, **kept: int) -> Any:
    """So many frames; the last one is said again if there are fewer."""
    return stream.filter("tpad", stop=-1, stop_mode="clone").filter("trim", **kept)


def _still(stream: Any, width: int, height: int) -> Any:
    return stream.filter("scale", width, height, out_range="pc").filter("setsar", 1).filter("format", "yuvj420p")
