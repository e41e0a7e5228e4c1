"""Windows joined are what one run of ffmpeg gives: as many frames, at the same times; sound to the sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, repeat
from pathlib import Path

import av
import numpy as np
import pytest

from orchestrator.children.mp4 import put_together
from orchestrator.children.segments import cut_pictures, cut_sound, delayed_beginning, priming
from orchestrator.children.sources import follows
from orchestrator.children.tracks import beginning, opened, packets
from orchestrator.core.packaging import Cut, Ending
from orchestrator.ports.packaging import Follower, Joining, Words
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ResultRejected
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Rendition, RenditionRequest, Window
from tandem.protocol.media import VideoCodec
from tandem.protocol.sounding import sound_span
from tandem.protocol.timing import MARGIN_US, PICTURE_OFFSET_TICKS
from tests.fixtures import windows
from tests.fixtures.media import ffmpeg
from tests.fixtures.protocol import transcode_work
from tests.fixtures.sources import Source

Made = Callable[[str], Path]

TONE_HZ = 440
CLICK = 0.05
"""Of the tone's amplitude, what a stretch of it may have that is no tone: twice what the encoder adds."""
ROUNDING = 90
"""Ticks: times of Matroska are whole milliseconds."""
NOISE = 0.02
"""Of full scale, by which encoders that began elsewhere may differ: their bits are spent a little otherwise."""
CUTS_US = (0, 500_000, 1_500_000)
RECIPES: dict[str, tuple[str, ...]] = {
    "variable.mp4": ("-vf", "select='not(eq(mod(n\\,7)\\,3))'", "-fps_mode", "vfr", "-c:v", "libx264", "-c:a", "aac"),
    "ntsc.mkv": ("-vf", "fps=30000/1001", "-c:v", "libx264", "-c:a", "aac"),
    "tones.mkv": ("-c:v", "libx264", "-af", "vibrato=f=7:d=0.9,apulsator", "-ar", "44100", "-c:a", "aac"),
    "tones.ts": ("-c:v", "libx264", "-af", "vibrato=f=7:d=0.9,apulsator", "-c:a", "mp2"),
    "drifting.mkv": ("-c:v", "libx264", "-af", "vibrato=f=7:d=0.9,asetpts=PTS*1.002", "-c:a", "flac"),
    "late_sound.mp4": ("-c:v", "libx264", "-af", "tremolo=f=9,asetpts=PTS+0.3/TB", "-c:a", "aac"),
    "hdr.mp4": (
        *("-vf", "format=yuv420p10le,setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"),
        *("-c:v", "libx265", "-x265-params", "log-level=none"),
    ),
    "open_gop.mkv": ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=10:min-keyint=10:open-gop=1"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: Source) -> Made:
    folder = tmp_path_factory.mktemp("made")

    def make(name: str) -> Path:
        path = folder / name
        if name == "edit_list.mp4" and not path.exists():  # begins between keyframes of what it holds
            ffmpeg("-ss", "0.3", "-i", source("h264_open_gop.mp4"), "-c", "copy", path)
        elif name in RECIPES and not path.exists():
            picture = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=2")
            tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=2")
            ffmpeg(*picture, *tone, *RECIPES[name], path)
        return path if path.exists() else source(name)

    return make


def joined(windows: Sequence[Path], target: Path, *sounds: Path) -> None:
    heard = tuple(Words(path=path) for path in sounds)
    put_together(Joining(windows=tuple(windows), sounds=heard, target=target))


@dataclass(frozen=True, slots=True)
class Job:
    source: Path
    work: TranscodeWork
    windows: tuple[TranscodeWork, ...]

    @property
    def rendition(self) -> Rendition:
        return self.work.video[0]

    def pictures(self, folder: Path, *more: tuple[str, ...]) -> list[Path]:
        """What nodes make of the windows."""
        made = []
        for index, (work, options) in enumerate(zip(self.windows, more or repeat(()), strict=False)):
            files = windows.deliver(work, self.source, folder / str(index), *options)
            made.append(files[self.rendition.name])
        return made

    def sound(self, folder: Path) -> Path:
        """All of it, as one task makes it."""
        alone = self.work.model_copy(update={"video": ()})
        return windows.deliver(alone, self.source, folder / "sound")["audio0"]

    def in_one_run(self, folder: Path) -> Path:
        return windows.whole(self.work, self.rendition, self.source, folder / "one.mp4")


async def job(path: Path, codec: VideoCodec = VideoCodec.H264, fps: str | None = None, sound: str = "aac") -> Job:
    """A transcode of the file in windows, none of which begins where the file can be cut."""
    found = await inspect_media(path, sandbox=Sandbox.LIMITS, clock=SystemClock())
    video = {"codec": codec, "fps": fps, "bitrate": 200_000}
    ladder = RenditionRequest.model_validate({"height": 64, "video": video, "audio": {"codec": sound}})
    work = transcode_work(found.media, ladder, gop_seconds=0.5, output={"container": "hls"}, subtitles=False)
    cuts = [work.origin_us + at for at in CUTS_US if at < found.media.duration_us - 100_000]
    works = []
    for start, end in pairwise([*cuts, work.origin_us + found.media.duration_us]):
        before = [at for at in found.keyframes if at < start]
        window = Window(start_us=start, end_us=end)
        changes = {"window": window, "seek_us": before[-1] if before else None, "audio": ()}
        works.append(work.model_copy(update=changes))
    return Job(path, work, tuple(works))


def times(path: Path) -> list[int]:
    """When each decoded picture is shown, in ticks after the first."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = (stream.time_base or Fraction(1)) * 90_000
        found = [round((frame.pts or 0) * tick) for frame in container.decode(stream)]
    return [at - found[0] for at in found]


def samples(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(container.streams.audio[0]))


def clicks(path: Path) -> float:
    """The most that any stretch of 256 samples has besides the tone, as a part of it; without the ends."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
        turn = 2 * np.pi * TONE_HZ / stream.sample_rate
    model = np.stack([np.sin(turn * np.arange(256)), np.cos(turn * np.arange(256))], axis=1)
    middle = heard[4096 : len(heard) - 4096]
    stretches = np.lib.stride_tricks.sliding_window_view(middle, 256)[::128].T
    amplitudes = np.linalg.lstsq(model, stretches, rcond=None)[0]
    left = np.sqrt(np.mean((stretches - model @ amplitudes) ** 2, axis=0))
    return float(np.max(left) / np.median(np.hypot(*amplitudes)))


def sounds(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [
            (packet.pts or 0, bytes(packet)) for packet in container.demux(container.streams.audio[0]) if packet.size
        ]


@pytest.mark.parametrize(
    ("name", "codec", "fps"),
    [
        ("h264.mp4", VideoCodec.H264, None),
        ("ntsc.mkv", VideoCodec.H264, None),
        ("ntsc.mkv", VideoCodec.HEVC, "24"),
        ("variable.mp4", VideoCodec.H264, None),
        ("variable.mp4", VideoCodec.VP9, None),
        ("h264_open_gop.mp4", VideoCodec.H264, None),
        ("open_gop.mkv", VideoCodec.AV1, None),
        ("edit_list.mp4", VideoCodec.H264, None),
        ("h264_late.ts", VideoCodec.H264, None),
        ("h264_refresh.ts", VideoCodec.VP9, None),
        ("vp9.webm", VideoCodec.HEVC, None),
        ("long_sound.mp4", VideoCodec.H264, None),
        ("short_sound.mp4", VideoCodec.H264, None),
    ],
)
async def test_windows_joined_are_one_run(made: Made, tmp_path: Path, name: str, codec: VideoCodec, fps: str) -> None:
    found = await job(made(name), codec, fps)
    heard = [found.sound(tmp_path)] if found.work.audio else []
    joined(found.pictures(tmp_path), tmp_path / "joined.mp4", *heard)
    one = found.in_one_run(tmp_path)
    assert len(found.windows) > 1
    assert times(tmp_path / "joined.mp4") == times(one)
    for path in heard:
        assert sounds(tmp_path / "joined.mp4") == sounds(path)
        assert samples(tmp_path / "joined.mp4") == samples(one)
        assert clicks(tmp_path / "joined.mp4") < CLICK


@pytest.mark.parametrize("name", ["variable.mp4", "edit_list.mp4", "h264_late.ts", "vp9.webm", "ntsc.mkv", "h264.flv"])
async def test_the_source_tells_when_the_next_window_begins(made: Made, tmp_path: Path, name: str) -> None:
    found = await job(made(name))
    origin = found.work.origin_us
    parts = found.pictures(tmp_path)
    ends = [each.window.end_us - origin for each in found.windows if each.window]
    told = [follows(Follower(source=found.source, origin_us=origin, from_us=end - MARGIN_US)) for end in ends]
    assert told == [*(first_time(part) for part in parts[1:]), None]


def first_time(part: Path) -> int:
    with opened(part) as (container, stream):
        return (next(packets(container, stream)).pts or 0) - PICTURE_OFFSET_TICKS


async def test_windows_of_different_encoders_play_as_one(made: Made, tmp_path: Path) -> None:
    """As when a node encodes on its GPU and the next one does not: each has parameter sets of its own."""
    found = await job(made("h264.mp4"))
    parts = found.pictures(tmp_path, ("-bf", "0", "-coder", "0"), ("-bf", "3"), ("-refs", "4"), ("-profile:v", "main"))
    joined(parts, tmp_path / "joined.mp4")
    assert times(tmp_path / "joined.mp4") == times(found.source)


@pytest.mark.parametrize("codec", list(VideoCodec))
async def test_segments_hold_the_same_pictures_at_the_same_times(made: Made, tmp_path: Path, codec: VideoCodec) -> None:
    found = await job(made("ntsc.mkv"), codec)
    parts = found.pictures(tmp_path)
    _, init = delayed_beginning(parts[0])
    name = segment_in(tmp_path)
    cuts = [cut for part in parts for cut in cut_pictures(part, parts[0], Fraction(1, 2), Ending(), name)]
    whole = tmp_path / "segments.mp4"
    whole.write_bytes(init + b"".join(name(cut.start).read_bytes() for cut in cuts))
    assert times(whole) == times(found.source)
    assert len(cuts) == 4
    assert all(abs(one.start + one.duration - other.start) <= ROUNDING for one, other in pairwise(cuts))


def test_sound_encoded_in_pieces_would_click(made: Made, tmp_path: Path) -> None:
    pieces = [tmp_path / "0.aac", tmp_path / "1.aac"]
    for index, piece in enumerate(pieces):
        ffmpeg("-ss", str(0.99 * index), "-t", "0.99", "-i", made("ntsc.mkv"), "-vn", "-c:a", "aac", piece)
    joined = tmp_path / "joined.aac"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert clicks(joined) > CLICK


@pytest.mark.parametrize("codec", ["aac", "opus"])
async def test_segments_hold_the_same_sound(made: Made, tmp_path: Path, codec: str) -> None:
    heard = (await job(made("ntsc.mkv"), sound=codec)).sound(tmp_path)
    cuts = cut_sound(heard, heard, Fraction(1, 2), segment_in(tmp_path))
    whole = played(heard, cuts, tmp_path)
    assert sounds(whole) == sounds(heard)
    assert clicks(whole) < CLICK
    assert priming(heard) > 0
    assert all(one.start + one.duration == other.start for one, other in pairwise(cuts))


@pytest.mark.parametrize("codec", ["aac", "opus"])
@pytest.mark.parametrize("name", ["tones.mkv", "tones.ts", "drifting.mkv", "late_sound.mp4"])
async def test_windows_of_sound_are_one_run(made: Made, tmp_path: Path, name: str, codec: str) -> None:
    found = await job(made(name), sound=codec)
    alone = found.work.model_copy(update={"video": ()})
    (asked,) = alone.audio
    one = found.sound(tmp_path)
    cuts, joins, first = [], [], None
    for index, each in enumerate(found.windows):
        work = alone.model_copy(update={"window": each.window})
        path = windows.deliver(work, found.source, tmp_path / str(index))["audio0"]
        first = first or path
        cuts += cut_sound(path, first, Fraction(1, 2), segment_in(tmp_path), span := sound_span(work, asked))
        joins += [span.begin] if span.begin else []
    joined = played(first or one, cuts, tmp_path)
    assert cuts == cut_sound(one, one, Fraction(1, 2), segment_in(tmp_path / "sound"))
    assert [at for at, _ in sounds(joined)] == [at for at, _ in sounds(one)]
    assert samples(joined) == samples(one)
    apart = np.abs(waves(joined) - waves(one))
    assert all(apart[:, at - 1024 : at + 2048].max() < NOISE for at in joins)


def waves(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[0])]
    return np.concatenate(frames, axis=1)


def played(first: Path, cuts: list[Cut], folder: Path) -> Path:
    """The segments as a player has them, one after the other behind what they begin with."""
    with opened(first) as (_, stream):
        init = beginning(stream, priming(first))
    whole = folder / "segments.mp4"
    whole.write_bytes(init + b"".join(segment_in(folder)(cut.start).read_bytes() for cut in cuts))
    return whole


def segment_in(folder: Path) -> Callable[[int], Path]:
    return lambda start: folder / f"{start}.m4s"


def test_pictures_that_lead_their_keyframe_are_refused(made: Made, tmp_path: Path) -> None:
    bare = tmp_path / "open.ts"
    timing = ("-muxdelay", "0", "-output_ts_offset", "10")
    ffmpeg("-i", made("open_gop.mkv"), "-c", "copy", "-an", *timing, "-f", "mpegts", bare)
    with pytest.raises(ResultRejected, match="GOPs that are closed"):
        joined([bare], tmp_path / "joined.mp4")


def test_what_is_no_window_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"#EXTM3U\n" * 100)
    with pytest.raises(ResultRejected, match="put together"):
        joined([tmp_path / "noise"], tmp_path / "joined.mp4")


async def test_a_picture_a_little_before_a_clip_is_shown_at_its_beginning(made: Made, tmp_path: Path) -> None:
    source = made("ntsc.mkv")
    found = await inspect_media(source, sandbox=Sandbox.LIMITS, clock=SystemClock())
    ladder = RenditionRequest.model_validate({"height": 64, "video": {"bitrate": 200_000}})
    clip = {"start": 0.3345}  # the eleventh picture is shown at 0.334
    work = transcode_work(found.media, ladder, gop_seconds=0.5, output={"container": "hls"}, clip=clip)
    window = windows.deliver(work, source, tmp_path)["64p"]
    cuts = cut_pictures(window, window, Fraction(1, 2), Ending(), lambda start: tmp_path / f"{start}.m4s")
    assert (cuts[0].start, len(times(window))) == (0, 50)


async def test_hdr_is_said_of_pictures_whose_codec_cannot(made: Made, tmp_path: Path) -> None:
    source = made("hdr.mp4")
    found = await inspect_media(source, sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert found.media.video is not None
    ladder = RenditionRequest.model_validate({"height": 64, "video": {"bitrate": 200_000, "codec": "vp9"}})
    work = transcode_work(found.media, ladder, output={"container": "hls"}, hdr="keep")
    window, color, target = windows.deliver(work, source, tmp_path)["64p"], found.media.video.color, tmp_path / "a.mp4"
    put_together(Joining(windows=(window,), color=color, target=target))
    cut_pictures(window, window, Fraction(9), Ending(), lambda _: tmp_path / "b.m4s")
    _, init = delayed_beginning(window, color)
    (tmp_path / "b.mp4").write_bytes(init + (tmp_path / "b.m4s").read_bytes())
    for path in (target, tmp_path / "b.mp4"):
        got = (await inspect_media(path, sandbox=Sandbox.LIMITS, clock=SystemClock())).media.video
        assert got is not None
        assert got.color == color
