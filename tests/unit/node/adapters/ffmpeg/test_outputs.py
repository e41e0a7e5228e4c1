"""What the executor makes of every kind of source: the whole in one, and in windows that fit together to the frame."""

from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import pytest
import pytest_asyncio

from node.adapters.ffmpeg import Ffmpeg, FfmpegTranscoder, Trials, VideoEncoder, binary, find_ffmpeg
from orchestrator.core.verification import Found, check_content
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media, inspect_results
from tandem.inspection.images import jpegs
from tandem.process import Confinement, Limits, run
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import ImageFormat, RenditionRequest, Watermark, Window
from tandem.protocol.media import MediaInfo, VideoCodec
from tandem.protocol.placement import encoder_for
from tandem.protocol.timing import PICTURE_OFFSET_TICKS, TICKS
from tests.fixtures.media import CLIPS, ffmpeg, rotate
from tests.fixtures.protocol import SHA, transcode_work
from tests.fixtures.sources import BROADCASTS, SOURCES, Source

CLOCK = SystemClock()
GOP_US = 500_000


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["system", "packaged"])
async def runner(request: pytest.FixtureRequest) -> FfmpegTranscoder:
    """Over each ffmpeg that there is here, with the encoders that work."""
    packaged = Path(imageio_ffmpeg.get_ffmpeg_exe())
    found = await (binary.examine(packaged, CLOCK) if request.param == "packaged" else find_ffmpeg(CLOCK))
    if request.param == "system" and found.path == packaged:
        pytest.skip("there is no other ffmpeg here than the packaged one")
    return await over(found)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def newest() -> FfmpegTranscoder:
    return await over(await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK))


async def over(found: Ffmpeg) -> FfmpegTranscoder:
    av1 = await Trials(found, sandbox=Sandbox.LIMITS, clock=CLOCK).encodes(VideoEncoder.SVT_AV1)
    encoders = ("libx264", "libx265", "libvpx-vp9", *(("libsvtav1",) if av1 else ()))
    return FfmpegTranscoder(found, Capability(video_encoders=encoders), sandbox=Sandbox.LIMITS, clock=CLOCK)


async def probe(path: Path) -> MediaInfo:
    return (await inspect_media(path, sandbox=Sandbox.LIMITS, clock=CLOCK)).media


async def make(
    runner: FfmpegTranscoder, work: TranscodeWork, source: Path, folder: Path, logo: Path | None = None
) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    return await runner.transcode(work, source, logo, folder, lambda *_: None)


async def judge(work: TranscodeWork, made: dict[str, Path]) -> dict[str, MediaInfo]:
    """As the orchestrator does; what was found."""
    stills = work.stills.names if work.stills else ()
    found: dict[str, Found] = {}
    for name, path in made.items():
        size = path.stat().st_size
        if name in stills:
            found[name] = Found(size, pictures=tuple(each.size for each in jpegs(path.read_bytes())))
        else:
            (report,) = await inspect_results([path], sandbox=Sandbox.LIMITS, clock=CLOCK)
            assert report.source is not None
            source = report.source
            found[name] = Found(size, source)
    check_content(work, found)
    return {name: each.source.media for name, each in found.items() if each.source is not None}


def frames(path: Path) -> list[int]:
    """Ticks of the job at which frames are shown, decoded to the end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = Fraction(stream.time_base or 1)
        times = [round(frame.pts * tick * TICKS) for frame in container.decode(stream) if frame.pts is not None]
    return [time - PICTURE_OFFSET_TICKS for time in times]


def keyframes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = Fraction(stream.time_base or 1)
        return [
            round(packet.pts * tick * TICKS) - PICTURE_OFFSET_TICKS
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None
        ]


def samples(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(container.streams.audio[0]))


def request(codec: VideoCodec, height: int = 64, **video: object) -> RenditionRequest:
    return RenditionRequest.model_validate({"height": height, "video": {"codec": codec, "bitrate": 200_000} | video})


def hls(media: MediaInfo, *ladder: RenditionRequest, **asked: object) -> TranscodeWork:
    output = {"container": "hls", "segment_seconds": 2 * GOP_US / 10**6}
    return transcode_work(media, *ladder, gop_seconds=GOP_US / 10**6, output=output, **asked)


async def windows(work: TranscodeWork, source: Path, count: int) -> list[TranscodeWork]:
    """The pictures of the work in pieces of so many GOPs, each from a keyframe strictly before it."""
    keys = (await inspect_media(source, sandbox=Sandbox.LIMITS, clock=CLOCK)).keyframes
    step, pieces = count * GOP_US, []
    end = work.origin_us + work.duration_us
    for start in range(work.origin_us, end, step):
        before = [key for key in keys if key < start]
        update = {
            "window": Window(start_us=start, end_us=min(start + step, end)),
            "seek_us": before[-1] if before and start > work.origin_us else None,
            "audio": (),
        }
        pieces.append(work.model_copy(update=update))
    return pieces


SEAMLESS = [
    *("h264_open_gop.mp4", "h264_refresh.ts", "h264_late.ts", "h264.flv", "hevc.mp4", "vp9.webm"),
    "mpeg2_interlaced.mpg",
]


@pytest.mark.parametrize("name", SEAMLESS)
async def test_windows_fit_together_to_the_frame(
    newest: FfmpegTranscoder, source: Source, tmp_path: Path, name: str
) -> None:
    media = await probe(source(name))
    work = hls(media, request(VideoCodec.H264))
    whole = (await make(newest, work, source(name), tmp_path / "whole"))["64p"]
    pieces = [
        (await make(newest, piece, source(name), tmp_path / str(index)))["64p"]
        for index, piece in enumerate(await windows(work, source(name), 2))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert frames(joined) == frames(whole)
    assert len(frames(whole)) == 50
    assert frames(whole)[0] == 0
    assert keyframes(joined) == keyframes(whole)
    assert [key // (TICKS // 2) for key in keyframes(whole)] == [0, 1, 2, 3]


@pytest.mark.parametrize("codec", VideoCodec)
async def test_every_codec_in_windows(
    newest: FfmpegTranscoder, source: Source, tmp_path: Path, codec: VideoCodec
) -> None:
    media = await probe(source("h264.mp4"))
    work = hls(media, request(codec), request(codec, 64, fps=12.5).model_copy(update={"name": "slow"}))
    whole = await make(newest, work, source("h264.mp4"), tmp_path / "whole")
    pieces = [
        await make(newest, piece, source("h264.mp4"), tmp_path / str(index))
        for index, piece in enumerate(await windows(work, source("h264.mp4"), 2))
    ]
    for work_of, made in zip(await windows(work, source("h264.mp4"), 2), pieces, strict=True):
        await judge(work_of, made)
    for name, count in (("64p", 50), ("slow", 25)):
        assert [time for piece in pieces for time in frames(piece[name])] == frames(whole[name])
        assert len(frames(whole[name])) == count
        assert [key // (TICKS // 2) for key in keyframes(whole[name])] == [0, 1, 2, 3]
        found = (await probe(whole[name])).video
        assert found is not None
        assert (found.codec, found.width, found.height) == (codec, 96, 64)


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - set(SEAMLESS)))
async def test_every_other_source_becomes_an_mp4(
    newest: FfmpegTranscoder, source: Source, tmp_path: Path, name: str
) -> None:
    media = await probe(source(name))
    assert media.video is not None
    work = transcode_work(media, RenditionRequest(height=min(media.video.display_size) // 2 * 2))
    (made,) = (await make(newest, work, source(name), tmp_path)).values()
    got = (await judge(work, {work.video[0].name: made}))[work.video[0].name]
    assert got.video is not None
    assert (got.video.codec, got.video.pixel_format, got.video.sample_aspect) == ("h264", "yuv420p", (1, 1))
    assert (got.video.frames, got.video.field_order) == (media.video.frames, "progressive")
    assert abs(got.video.duration_us - media.video.duration_us) <= 40_000
    assert not got.video.color.hdr
    assert [each.codec for each in got.audio] == ["aac"] * bool(media.audio)


@pytest.mark.parametrize("name", BROADCASTS)
async def test_what_changes_on_the_way_goes_on(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path, name: str
) -> None:
    media = await probe(source(name))
    assert media.jumps is (name in {"later.ts", "earlier.ts"})
    assert media.splittable is not media.jumps
    assert media.duration_us == pytest.approx(4_000_000, abs=50_000)
    work = hls(media, request(VideoCodec.H264), thumbnails={"interval": 1})
    made = await make(runner, work, source(name), tmp_path)
    await judge(work, made)
    assert [round(time / TICKS, 1) for time in frames(made["64p"])][::25] == pytest.approx([0, 1, 2, 3], abs=0.1)
    assert samples(made["audio0"]) == pytest.approx(4 * 44_100, abs=4096)


@pytest.mark.parametrize("name", ["single.mp4", "pause.mp4"])
async def test_every_interval_has_its_still(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path, name: str
) -> None:
    """Also the last one, however short, and one in which no picture begins."""
    media = await probe(source(name))
    work = hls(media, request(VideoCodec.H264), thumbnails={"interval": 1}, poster={})
    made = await make(runner, work.model_copy(update={"audio": ()}), source(name), tmp_path)
    assert len(list(jpegs(made["thumbnails"].read_bytes()))) == -(-media.duration_us // 10**6)
    assert len(list(jpegs(made["poster"].read_bytes()))) == 1


async def test_hdr_may_be_kept(newest: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(source("hevc10_pq.mkv"))
    asked = RenditionRequest.model_validate({"height": 64, "video": {"codec": "hevc"}})
    work = transcode_work(media, asked, hdr="keep")
    got = (await probe((await make(newest, work, source("hevc10_pq.mkv"), tmp_path))["64p"])).video
    assert got is not None
    assert (got.pixel_format, got.color.transfer, got.color.primaries) == ("yuv420p10le", "smpte2084", "bt2020")


async def test_a_clip_is_exact(runner: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(source("h264_late.ts"))
    work = hls(media, request(VideoCodec.H264), clip={"start": 0.52, "end": 1.48})
    made = await make(runner, work, source("h264_late.ts"), tmp_path)
    assert frames(made["64p"]) == [3600 * index for index in range(24)]
    assert samples(made["audio0"]) == pytest.approx(0.96 * 44_100, abs=1024)
    await judge(work, made)


@pytest.mark.parametrize("codec", ["aac", "opus"])
async def test_sound_begins_with_the_pictures(
    newest: FfmpegTranscoder, source: Source, tmp_path: Path, codec: str
) -> None:
    media = await probe(CLIPS / "sintel_cea608.ts")
    asked = RenditionRequest.model_validate({"height": 64, "audio": {"codec": codec}})
    work = hls(media, asked).model_copy(update={"video": ()})
    got = (await probe((await make(newest, work, CLIPS / "sintel_cea608.ts", tmp_path))["audio0"])).audio[0]
    assert (got.codec, got.start_us) == (codec, 0)
    assert abs(got.duration_us - (9_845_256 - 119_000)) < 50_000


async def test_sound_may_be_copied(newest: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(source("h264.mp4"))
    asked = RenditionRequest.model_validate({"height": 64, "audio": {"passthrough": True}})
    work = hls(media, asked)
    assert work.audio[0].bitrate is None
    made = (await make(newest, work, source("h264.mp4"), tmp_path))["audio0"]
    assert samples(made) == samples(source("h264.mp4"))


async def test_sound_that_is_copied_begins_with_the_pictures(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path
) -> None:
    path = tmp_path / "late.ts"
    ffmpeg("-i", source("h264.mp4"), "-c", "copy", "-output_ts_offset", "5", path)
    asked = RenditionRequest.model_validate({"height": 64, "audio": {"passthrough": True}})
    work = transcode_work(await probe(path), asked)
    assert work.audio[0].bitrate is None
    made = await make(runner, work, path, tmp_path / "out")
    (heard,) = (await probe(made["64p"])).audio
    assert abs(heard.start_us) < 30_000


async def test_loudness_is_reached_in_two_passes(runner: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(CLIPS / "sintel_cea608.ts")
    asked = RenditionRequest.model_validate({"height": 64, "audio": {"loudness": -22.0}})
    work = hls(media, asked).model_copy(update={"video": ()})
    made = (await make(runner, work, CLIPS / "sintel_cea608.ts", tmp_path))["audio0"]
    argv = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(made), "-af", "ebur128=framelog=quiet"]
    limits, confinement = Limits(memory_mib=512, wall_seconds=60), Confinement(Sandbox.LIMITS)
    done = await run([*argv, "-f", "null", "-"], limits=limits, confinement=confinement, clock=CLOCK)
    loudness = float(done.stderr.rpartition("I:")[2].split()[0])
    assert loudness == pytest.approx(-22.0, abs=1.0)


async def test_all_tracks_and_captions_come_along(newest: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(source("tracks.mkv"))
    work = hls(media, RenditionRequest(height=64), audio_tracks=[1, 0])
    made = await make(newest, work, source("tracks.mkv"), tmp_path)
    assert [(each.name, each.language) for each in work.audio] == [("audio0", "deu"), ("audio1", "eng")]
    assert "00:00.500 --> 00:01.500\nHello" in made["subtitles0"].read_text()
    together = transcode_work(media, RenditionRequest(height=64), audio_tracks=[1, 0])
    heard = (await probe((await make(newest, together, source("tracks.mkv"), tmp_path / "mp4"))["64p"])).audio
    assert [each.language for each in heard] == ["deu", "eng"]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(
    ("clip", "told"),
    [
        ((0.3, 1.9), "00:00.200 --> 00:01.200\nHello\n"),
        ((1.0, 1.3), "00:00.000 --> 00:00.300\nHello\n"),
        ((1.6, 1.9), ""),
    ],
)
async def test_captions_of_a_clip_are_those_that_are_shown_in_it(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path, suffix: str, clip: tuple[float, float], told: str
) -> None:
    path = tmp_path / f"tracks.{suffix}"
    kind = "mov_text" if suffix == "mp4" else "srt"
    ffmpeg("-i", source("tracks.mkv"), "-map", "0:v", "-map", "0:s", "-c", "copy", "-c:s", kind, path)
    start, end = clip
    work = hls(await probe(path), RenditionRequest(height=64), clip={"start": start, "end": end})
    made = (await make(runner, work, path, tmp_path / "out"))["subtitles0"].read_text()
    assert made == "WEBVTT\n" + (f"\n{told}" if told else "")


async def test_captions_among_the_pictures_survive(runner: FfmpegTranscoder, tmp_path: Path) -> None:
    assert await captioned(runner, VideoCodec.H264, tmp_path)


async def test_captions_survive_in_hevc_too(newest: FfmpegTranscoder, tmp_path: Path) -> None:
    assert await captioned(newest, VideoCodec.HEVC, tmp_path)


async def captioned(runner: FfmpegTranscoder, codec: VideoCodec, folder: Path) -> bool:
    clip = CLIPS / "sintel_cea608.ts"
    work = hls(await probe(clip), request(codec), clip={"end": 1})
    got = (await probe((await make(runner, work, clip, folder))["64p"])).video
    return got is not None and got.captions


async def test_stills(runner: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    media = await probe(source("h264.mp4"))
    stills = {
        "thumbnails": {"interval": 0.5, "height": 32},
        "sprite": {"interval": 0.5, "height": 16, "columns": 2, "rows": 1},
        "poster": {"at": 1.0},
    }
    work = hls(media, request(VideoCodec.H264), **stills)
    made = await make(runner, work, source("h264.mp4"), tmp_path)
    counts = {name: made[name].read_bytes().count(b"\xff\xd8\xff") for name in stills}
    assert counts == {"thumbnails": 4, "sprite": 2, "poster": 1}
    await judge(work, made)


@pytest.mark.parametrize("clip", [None, {"start": 0.7, "end": 1.9}])
async def test_stills_by_themselves_are_there_to_the_end_though_keyframes_are_not(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path, clip: dict[str, float] | None
) -> None:
    path = tmp_path / "long_gop.mp4"
    ffmpeg("-i", source("h264.mp4"), "-an", "-c:v", "libx264", "-g", "1000", path)
    stills = {
        "thumbnails": {"interval": 0.5, "height": 32},
        "sprite": {"interval": 0.5, "height": 16, "columns": 2, "rows": 1},
        "poster": {"at": 1.1},
    }
    work = hls(await probe(path), request(VideoCodec.H264), clip=clip, **stills)
    work = work.model_copy(update={"video": (), "seek_us": 0 if clip else None})
    await judge(work, await make(runner, work, path, tmp_path / "out"))


async def test_a_watermark_is_where_it_belongs(newest: FfmpegTranscoder, source: Source, tmp_path: Path) -> None:
    logo = tmp_path / "logo.png"
    ffmpeg("-f", "lavfi", "-i", "color=white:size=20x20", "-frames:v", "1", logo)
    media = await probe(source("h264.mp4"))
    mark = Watermark(artifact=SHA, size=1, format=ImageFormat.PNG, position="top_left", scale=0.25, opacity=1.0)
    work = hls(media, request(VideoCodec.H264, bitrate=2_000_000))
    work = work.model_copy(update={"picture": work.picture.model_copy(update={"watermark": mark})})
    made = (await make(newest, work, source("h264.mp4"), tmp_path / "out", logo))["64p"]
    with av.open(str(made)) as container:
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(pictures) == 50
    assert all(picture[5:22, 5:22].mean() > 220 for picture in pictures)
    assert pictures[0][30:, 40:].mean() < 200


@pytest.mark.parametrize("size", ["16x4096", "4096x1"])
async def test_a_watermark_fits_into_the_picture(
    runner: FfmpegTranscoder, source: Source, tmp_path: Path, size: str
) -> None:
    logo = tmp_path / "logo.png"
    ffmpeg("-f", "lavfi", "-i", f"color=white:size={size}", "-frames:v", "1", logo)
    mark = Watermark(artifact=SHA, size=1, format=ImageFormat.PNG, position="center", scale=1.0, opacity=1.0)
    work = hls(await probe(source("h264.mp4")), request(VideoCodec.H264)).model_copy(update={"audio": ()})
    work = work.model_copy(update={"picture": work.picture.model_copy(update={"watermark": mark})})
    await judge(work, await make(runner, work, source("h264.mp4"), tmp_path / "out", logo))


async def test_turned_pictures_come_out_upright_in_windows_too(
    newest: FfmpegTranscoder, source: Source, tmp_path: Path
) -> None:
    turned = rotate(source("h264.mp4"), tmp_path / "turned.mp4", 90)
    media = await probe(turned)
    piece = (await windows(hls(media, request(VideoCodec.H264)), turned, 1))[1]
    got = (await probe((await make(newest, piece, turned, tmp_path / "out"))["64p"])).video
    assert got is not None
    assert got.display_size == (64, 96)


def test_encoders_are_chosen_by_what_is_known() -> None:
    assert encoder_for(VideoCodec.HEVC, ("libx264", "libx265", "hevc_nvenc")) == "hevc_nvenc"
    assert encoder_for(VideoCodec.AV1, ("libx264",)) == ""
