"""Real transcodes of real clips, and of files that are not what they seem."""

import asyncio
import os
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import pytest
import pytest_asyncio

from node.adapters.ffmpeg import SOFTWARE, Ffmpeg, FfmpegTranscoder, binary, find_ffmpeg, transcoder
from node.adapters.ffmpeg.hardware import Route
from node.adapters.ffmpeg.transcoder import limits_of, progress_at
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.process import Limits
from tandem.process.tree import descendants
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import AttemptTimeout, ChildCrashed, ExecutionFailed, TooLarge
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.media import MediaInfo, VideoStream
from tests.fixtures.clock import ManualClock
from tests.fixtures.media import CLIP_NAMES, CLIPS, encode, rotate
from tests.fixtures.media import ffmpeg as run_ffmpeg
from tests.fixtures.protocol import transcode_work

CLOCK = SystemClock()
PICTURE = MediaInfo(
    format="mov",
    duration_us=2_000_000,
    video=VideoStream(codec="h264", width=640, height=272, frame_rate=(25, 1), frames=50),
)
Reports = list[tuple[int, float | None]]


@pytest_asyncio.fixture(params=["system", "packaged"], scope="session", loop_scope="session")
async def ffmpeg(request: pytest.FixtureRequest) -> Ffmpeg:
    """The oldest and the newest that are about."""
    packaged = Path(imageio_ffmpeg.get_ffmpeg_exe())
    found = await (binary.examine(packaged, CLOCK) if request.param == "packaged" else find_ffmpeg(CLOCK))
    if request.param == "system" and found.path == packaged:
        pytest.skip("there is no other ffmpeg here than the packaged one")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def newest() -> Ffmpeg:
    return await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK)


def work_for(media: MediaInfo, *heights: int, sound: bool = True) -> TranscodeWork:
    requests = [RenditionRequest(height=height) for height in heights]
    if not sound:
        requests = [request.model_copy(update={"audio": None}) for request in requests]
    return transcode_work(media, *requests)


CPU = Capability(video_encoders=SOFTWARE)


async def probe(path: Path) -> MediaInfo:
    return (await inspect_media(path, sandbox=Sandbox.LIMITS, clock=CLOCK)).media


async def transcode(
    ffmpeg: Ffmpeg, work: TranscodeWork, source: Path, folder: Path, sandbox: Sandbox = Sandbox.LIMITS
) -> tuple[dict[str, Path], Reports]:
    reports: Reports = []
    runner = FfmpegTranscoder(ffmpeg, CPU, sandbox=sandbox, clock=CLOCK)
    files = await runner.transcode(work, source, None, folder, lambda permille, left: reports.append((permille, left)))
    return files, reports


def key_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            packet.pts * Fraction(stream.time_base or 1)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None
        ]


@pytest.mark.parametrize("name", CLIP_NAMES)
async def test_every_clip_keeps_its_frames_and_its_length(ffmpeg: Ffmpeg, tmp_path: Path, name: str) -> None:
    media = await probe(CLIPS / name)
    assert media.video is not None
    work = work_for(media, min(media.video.display_size) // 4 * 2, 64)
    files, reports = await transcode(ffmpeg, work, CLIPS / name, tmp_path)
    assert list(files) == [rendition.name for rendition in work.video]
    for rendition in work.video:
        got = await probe(files[rendition.name])
        assert got.video is not None
        assert (got.video.width, got.video.height) == (rendition.width, rendition.height)
        assert (got.video.frames, got.video.sample_aspect) == (media.video.frames, (1, 1))
        assert (got.video.codec, got.video.pixel_format) == ("h264", "yuv420p")
        assert abs(got.duration_us - media.duration_us) < 40_000
        assert [(stream.codec, stream.channels) for stream in got.audio] == ([("aac", 2)] if media.audio else [])
    assert reports[-1] == (1000, 0.0)


async def test_renditions_share_their_key_frames(tmp_path: Path, newest: Ffmpeg) -> None:
    source = encode(tmp_path / "even.mkv", range(0, 5000, 40))
    files, _ = await transcode(newest, work_for(await probe(source), 48, 32), source, tmp_path)
    assert [key_times(path) for path in files.values()] == [[0, 2, 4], [0, 2, 4]]


async def test_a_rendition_may_go_without_sound_and_without_the_sources_tags(tmp_path: Path, newest: Ffmpeg) -> None:
    work = work_for(await probe(CLIPS / "bbb_720p25_aac51.mp4"), 90, sound=False)
    files, _ = await transcode(newest, work, CLIPS / "bbb_720p25_aac51.mp4", tmp_path)
    assert (await probe(files["90p"])).audio == ()
    with av.open(str(files["90p"])) as container:
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}


@pytest.mark.parametrize("degrees", [90, 180])
async def test_a_turned_video_comes_out_upright(ffmpeg: Ffmpeg, tmp_path: Path, degrees: int) -> None:
    source = rotate(CLIPS / "bikes_640x272_noaudio.mp4", tmp_path / "turned.mp4", degrees)
    files, _ = await transcode(ffmpeg, work_for(await probe(source), 136), source, tmp_path)
    video = (await probe(files["136p"])).video
    assert video is not None
    assert video.rotation == 0
    assert video.display_size == ((136, 320) if degrees == 90 else (320, 136))


async def test_variable_frame_rate_and_odd_sizes_keep_their_frames(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    times = [0, 40, 80, 81, 500, 520, 2000, 2005, 3500]
    source = encode(tmp_path / "odd.mkv", times, (175, 143))
    files, _ = await transcode(ffmpeg, work_for(await probe(source), 72), source, tmp_path)
    with av.open(str(files["72p"])) as container:
        shown = [float(frame.time or 0) for frame in container.decode(video=0)]
    assert shown == pytest.approx([time / 1000 for time in times], abs=0.002)


@pytest.mark.parametrize(
    "codec",
    [
        ("libx264", "-x264-params", "open-gop=1:keyint=25:bframes=3"),
        ("libx265", "-preset", "ultrafast", "-x265-params", "open-gop=1:keyint=25:bframes=3:log-level=error"),
    ],
    ids=["h264", "hevc"],
)
async def test_a_cut_between_open_groups_keeps_what_can_be_seen(
    ffmpeg: Ffmpeg, tmp_path: Path, codec: tuple[str, ...]
) -> None:
    """The pictures that lead the first key frame need a group that was cut away."""
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=160x96:rate=25:duration=3", "-c:v", *codec, tmp_path / "whole.ts")
    source = tmp_path / "cut.ts"
    run_ffmpeg("-ss", "1.5", "-i", tmp_path / "whole.ts", "-c", "copy", source)
    media = await probe(source)
    files, _ = await transcode(ffmpeg, work_for(media, 48), source, tmp_path)
    got = await probe(files["48p"])
    assert media.video is not None
    assert got.video is not None
    assert 0 < got.video.frames == media.video.frames < 75


async def test_a_gap_of_hours_makes_no_frames(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    source = encode(tmp_path / "gap.mkv", [0, 40, 5 * 3600 * 1000])
    files, _ = await transcode(ffmpeg, work_for(await probe(source), 48), source, tmp_path)
    video = (await probe(files["48p"])).video
    assert video is not None
    assert video.frames == 3


async def test_an_output_ends_soon_after_its_source_should(tmp_path: Path, newest: Ffmpeg) -> None:
    source = encode(tmp_path / "long.mkv", range(0, 60_000, 100))
    claimed = (await probe(source)).model_copy(update={"duration_us": 1_000_000})
    files, _ = await transcode(newest, work_for(claimed, 48), source, tmp_path)
    assert (await probe(files["48p"])).duration_us == pytest.approx(3_000_000, abs=200_000)


async def test_a_source_with_more_frames_than_were_said_is_not_encoded_for_nothing(
    ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    media = await probe(CLIPS / "bbb_720p25_aac51.mp4")
    assert media.video is not None
    assert media.video.frames > 60
    claimed = media.model_copy(update={"video": media.video.model_copy(update={"frames": 1})})
    files, _ = await transcode(ffmpeg, work_for(claimed, 48, 32), CLIPS / "bbb_720p25_aac51.mp4", tmp_path)
    for path in files.values():
        video = (await probe(path)).video
        assert video is not None
        assert video.frames == 51


def taken_over(folder: Path, script: str) -> FfmpegTranscoder:
    """Runs an ffmpeg that does as its input tells it."""
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return FfmpegTranscoder(Ffmpeg(path, "0"), CPU, sandbox=Sandbox.LIMITS, clock=CLOCK)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("head -c 3000000 /dev/zero", ChildCrashed),
        (r"printf 'out_time_us=\377\n'", ExecutionFailed),
        ("echo out_time_us=$(head -c 5000 /dev/zero | tr '\\0' 1)", ExecutionFailed),
    ],
    ids=["no end of line", "no text", "no number"],
)
async def test_nonsense_from_ffmpeg_fails_the_attempt_alone(
    tmp_path: Path, script: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await taken_over(tmp_path, script).transcode(
            work_for(PICTURE, 136), CLIPS / "bikes_640x272_noaudio.mp4", None, tmp_path, lambda *_: None
        )


async def test_a_link_in_place_of_a_rendition_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("secret")
    runner = taken_over(tmp_path, f"ln -s {tmp_path}/key.json {tmp_path}/136p.mp4")
    with pytest.raises(ExecutionFailed, match="136p"):
        await runner.transcode(
            work_for(PICTURE, 136), CLIPS / "bikes_640x272_noaudio.mp4", None, tmp_path, lambda *_: None
        )


async def test_both_confinements_do(sandbox: Sandbox, tmp_path: Path, newest: Ffmpeg) -> None:
    source = CLIPS / "bikes_640x272_noaudio.mp4"
    files, _ = await transcode(newest, work_for(await probe(source), 136), source, tmp_path, sandbox)
    assert files["136p"].stat().st_size > 1000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some words\n" * 100,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://SECRET\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile SECRET\n",
        (CLIPS / "bikes_640x272_noaudio.mp4").read_bytes()[:-40_000],
    ],
    ids=["empty", "text", "hls", "concat", "truncated"],
)
async def test_what_is_no_video_fails_for_good(ffmpeg: Ffmpeg, tmp_path: Path, content: bytes) -> None:
    """Playlists that call themselves MP4 point at a real video, which must not come out."""
    source = tmp_path / "upload.mp4"
    source.write_bytes(content.replace(b"SECRET", bytes(CLIPS / "bikes_640x272_noaudio.mp4")))
    with pytest.raises(ExecutionFailed) as caught:
        await transcode(ffmpeg, work_for(PICTURE, 136), source, tmp_path)
    assert str(tmp_path) not in caught.value.detail
    assert not (tmp_path / "136p.mp4").exists() or not (tmp_path / "136p.mp4").stat().st_size


async def test_a_full_disk_is_the_machines_fault(tmp_path: Path, newest: Ffmpeg) -> None:
    (tmp_path / "136p.mp4").symlink_to("/dev/full")
    with pytest.raises(ChildCrashed, match="No space left"):
        await transcode(newest, work_for(PICTURE, 136), CLIPS / "bikes_640x272_noaudio.mp4", tmp_path)


async def test_progress_rises_and_foresees_the_end(tmp_path: Path, newest: Ffmpeg) -> None:
    source = CLIPS / "bbb_720p25_aac51.mp4"
    _, reports = await transcode(newest, work_for(await probe(source), 540), source, tmp_path)
    permilles = [permille for permille, _ in reports]
    assert permilles == sorted(permilles)
    assert any(0 < permille < 999 and left for permille, left in reports)


@pytest.mark.parametrize(
    ("done_us", "elapsed", "expected"),
    [(0, 1.0, (0, None)), (500, 10.0, (500, 10.0)), (1000, 10.0, (999, 10 / 999)), (5000, 1.0, (999, 1 / 999))],
)
def test_progress_is_of_the_duration(done_us: int, elapsed: float, expected: tuple[int, float | None]) -> None:
    assert progress_at(done_us, 1000, elapsed) == pytest.approx(expected)


async def test_cancelling_ends_ffmpeg(sandbox: Sandbox, tmp_path: Path, newest: Ffmpeg) -> None:
    source, begun = CLIPS / "bbb_720p25_aac51.mp4", asyncio.Event()
    work = work_for(await probe(source), 540)
    runner = FfmpegTranscoder(newest, CPU, sandbox=sandbox, clock=CLOCK)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(runner.transcode(work, source, None, tmp_path, lambda *_: begun.set()))
        await begun.wait()
        assert _children()
        task.cancel()
    assert not _children()


async def test_bounds_on_time_and_size_hold(tmp_path: Path, newest: Ffmpeg, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CLIPS / "bbb_720p25_aac51.mp4"
    work = work_for(await probe(source), 540)
    slow = FfmpegTranscoder(newest, CPU, sandbox=Sandbox.LIMITS, clock=CLOCK, wall_seconds=0.3)
    with pytest.raises(AttemptTimeout):
        await slow.transcode(work, source, None, tmp_path, lambda *_: None)
    monkeypatch.setattr(transcoder, "limits_of", lambda *_: Limits(2048, 60, file_bytes=10_000))
    with pytest.raises(TooLarge):
        await transcode(newest, work, source, tmp_path)


def test_bounds_grow_with_the_work() -> None:
    small, large = limits_of(work_for(PICTURE, 64), 9), limits_of(work_for(PICTURE, 272, 136), 9)
    assert small.wall_seconds == large.wall_seconds == 9
    assert 768 < small.memory_mib < large.memory_mib < 2048
    assert small.file_bytes is not None
    assert large.file_bytes is not None
    assert small.file_bytes < large.file_bytes


def _children() -> list[str]:
    """The ffmpegs below this process."""
    names = [Path(f"/proc/{pid}/comm") for pid in descendants(os.getpid())]
    return [path.read_text() for path in names if path.exists() and "ffmpeg" in path.read_text()]


async def test_a_gpu_that_fails_is_tried_again_later(newest: Ffmpeg, tmp_path: Path, clock: ManualClock) -> None:
    capability = Capability(video_encoders=("h264_nvenc", "libx264"))
    runner = FfmpegTranscoder(newest, capability, sandbox=Sandbox.LIMITS, clock=clock)
    clip = CLIPS / "bikes_640x272_noaudio.mp4"
    work = work_for(PICTURE, 136, sound=False)
    await runner.transcode(work, clip, None, tmp_path, lambda _permille, _left: None)
    assert runner._avoided() == {("h264", Route.NVENC)}
    clock.advance(600)
    assert not runner._avoided()
