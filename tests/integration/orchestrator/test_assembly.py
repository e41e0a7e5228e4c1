"""Results of tasks put together: an MP4 of windows, streams that can be played while they are made."""

from functools import partial
from pathlib import Path

import pytest

from tandem.client import TandemClient
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ResultRejected, Unavailable
from tandem.protocol.jobs import JobState
from tandem.protocol.outputs import TranscodeOutput
from tests.fixtures.api import Api
from tests.fixtures.hls import attributes, lint
from tests.fixtures.media import CLIPS, ffmpeg
from tests.fixtures.streams import CUTS_US, Stream, begin, request


async def test_windows_become_one_mp4_with_its_sound(api: Api, film: Path, tmp_path: Path) -> None:
    stream = await begin(api, film, request(), CUTS_US, tmp_path)
    for index in reversed(range(len(stream.works))):
        await stream.do(index)
    status, job = await api.call("GET", f"/v1/jobs/{stream.job}")
    assert (status, job["state"]) == (200, "succeeded")
    found = {each["name"]: each for each in job["result"]["renditions"]}
    assert {name: (each["frames"], each["audio_codec"]) for name, each in found.items()} == {
        "180p": (180, "aac"),
        "108p": (180, "aac"),
    }
    outputs = [each.output for each in (await api.store.job(stream.job)).attempts]
    files = {file for each in outputs if isinstance(each, TranscodeOutput) for file in each.files}
    made = {file.artifact for file in files if file.name != "subtitles0"}  # which is there beside the MP4
    assert set(await api.store.delete_orphans(10**6)) == made, "the windows and the sound are let go of"
    target = tmp_path / "180p.mp4"
    async with api.http.get(f"{api.url}{stream.path}180p.mp4") as response:
        assert response.headers["Content-Type"] == "video/mp4"
        target.write_bytes(await response.read())
    source = await inspect_media(target, sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert source.media.video is not None
    assert (source.media.video.frames, [each.language for each in source.media.audio]) == (180, ["eng"])
    assert [(each.codec, each.language) for each in source.media.subtitles] == [("mov_text", "fra")]
    ffmpeg("-i", target, "-map", "0:s", tmp_path / "told.vtt")
    assert "00:01.000 --> 00:02.000\nHello" in (tmp_path / "told.vtt").read_text()
    assert "Hello" in await text(stream, "subtitles0.vtt"), "it is beside it too"


async def text(stream: Stream, path: str) -> str:
    return (await fetched(stream, path)).decode()


async def fetched(stream: Stream, path: str) -> bytes:
    """As a player does: by the signed folder, with no key."""
    _, job = await stream.api.call("GET", f"/v1/jobs/{stream.job}")
    async with stream.api.http.get(stream.api.url + job["folder"] + path) as response:
        assert response.status == 200, (path, response.status)
        return await response.read()


async def read(folder: Path, path: str) -> bytes:
    return (folder / path).read_bytes()


async def test_a_stream_grows_window_by_window(api: Api, film: Path, tmp_path: Path) -> None:
    asked = request(output={"container": "cmaf", "segment_seconds": 2})
    stream = await begin(api, film, asked, CUTS_US, tmp_path)
    await stream.do(1)
    assert (await api.call("GET", f"{stream.path}master.m3u8"))[0] == 404, "there is no sound yet"
    await stream.do(0)
    assert "captions.vtt\n#EXT-X-ENDLIST" in await text(stream, "subtitles0/playlist.m3u8")
    assert "Hello" in await text(stream, "subtitles0/captions.vtt"), "long before the pictures are all there"
    for index in (2, 3):
        growing = await text(stream, "180p/playlist.m3u8")
        assert "#EXT-X-PLAYLIST-TYPE:EVENT" in growing
        assert "#EXT-X-ENDLIST" not in growing
        assert growing.count("#EXTINF") == index - 1 == (await text(stream, "108p/playlist.m3u8")).count("#EXTINF")
        assert await lint(lambda path: fetched(stream, path)) == []
        await stream.do(index)
    whole = await text(stream, "180p/playlist.m3u8")
    assert whole.startswith(growing.split("#EXT-X-PLAYLIST-TYPE")[0])
    assert whole.count("#EXTINF") == 3
    assert whole.endswith("#EXT-X-ENDLIST\n")
    assert await lint(lambda path: fetched(stream, path)) == []
    assert "Hello" in await text(stream, "subtitles0/captions.vtt")
    assert (await api.store.job(stream.job)).job.state is JobState.SUCCEEDED
    async with TandemClient(api.url) as client:
        paths = await client.download_folder(stream.job, tmp_path / "out")
        assert await client.download_folder(stream.job, tmp_path / "out") == paths, "what is there stays"
    assert sum(path.suffix == ".m4s" for path in paths) == 9
    assert await lint(partial(read, tmp_path / "out")) == []
    assert tmp_path / "out" / "manifest.mpd" in paths


async def test_transport_streams_on_request(api: Api, film: Path, tmp_path: Path) -> None:
    asked = request(output={"container": "hls", "segment_format": "ts", "segment_seconds": 2})
    stream = await begin(api, film, asked, CUTS_US, tmp_path)
    for index in range(len(stream.works)):
        await stream.do(index)
    assert await lint(lambda path: fetched(stream, path)) == []
    assert "X-TIMESTAMP-MAP=MPEGTS:900000" in await text(stream, "subtitles0/captions.vtt")


async def test_captions_are_declared_of_pictures_that_have_them(api: Api, tmp_path: Path) -> None:
    codecs = ("h264", "hevc", "vp9")
    ladder = [{"height": 96, "name": name, "video": {"codec": name, "bitrate": 100_000}} for name in codecs]
    asked = request(ladder=ladder, clip={"end": 1}, output={"container": "hls", "segment_seconds": 2})
    stream = await begin(api, CLIPS / "sintel_cea608.ts", asked, (0,), tmp_path)
    for index in range(len(stream.works)):
        await stream.do(index)
    told = [line for line in (await text(stream, "master.m3u8")).splitlines() if "STREAM-INF" in line]
    assert [attributes(line).get("CLOSED-CAPTIONS") for line in told] == ["cc", "cc", None]


async def test_what_a_killed_process_had_begun_is_taken_up(
    api: Api, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may die between any two writes: before a package is known, and before the job is over."""
    stream = await begin(
        api, film, request(output={"container": "hls", "segment_seconds": 2}), (0, 4_000_000), tmp_path
    )
    for index in range(len(stream.works)):
        await stream.deliver(index)

    class Killed(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Killed

    for place, name in ((api.store, "add_packages"), (stream.assembly, "_apply")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, dies)
            with pytest.raises(Killed):
                await stream.assembly.advance(stream.job)
    before = {path.name for path in api.files()}
    await stream.assembly._take_up(JobState.VERIFYING)
    await stream.assembly._settle(stream.assembly._due.get_nowait())
    assert (await api.store.job(stream.job)).job.state is JobState.SUCCEEDED
    assert await lint(lambda path: fetched(stream, path)) == []
    assert {path.name for path in api.files()} == before, "what is the same has the same name"


async def test_results_that_do_not_fit_fail_the_job_by_name(
    api: Api, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await begin(api, film, request(), (0, 4_000_000), tmp_path)
    for index in range(len(stream.works)):
        await stream.deliver(index)

    async def refuses(_: object) -> None:
        raise ResultRejected("expected GOPs that are closed")

    monkeypatch.setattr(stream.assembly._packager, "join", refuses)
    await stream.assembly._settle(stream.job)
    _, job = await api.call("GET", f"/v1/jobs/{stream.job}")
    assert (job["state"], job["error"]["code"]) == ("failed", "assembly_failed")
    assert "GOPs" in job["error"]["detail"]
    await stream.assembly._settle(stream.job)  # over: nothing is left to do


async def test_a_full_disk_is_waited_for(api: Api, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = await begin(api, film, request(output={"container": "hls"}), (0,), tmp_path)
    await stream.deliver(1)

    async def fails(*_: object) -> None:
        raise Unavailable("expected to store an artifact, got No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stream.assembly._artifacts, "write", fails)
        with pytest.raises(Unavailable):
            await stream.assembly.advance(stream.job)
    await stream.assembly.advance(stream.job)
    assert await api.store.packages(stream.job)


async def test_pictures_beside_an_mp4(api: Api, film: Path, tmp_path: Path) -> None:
    stills = {"interval": 2, "height": 36}
    asked = request(thumbnails=stills, sprite={**stills, "columns": 2, "rows": 1}, poster={"at": 1})
    stream = await begin(api, film, asked, (0,), tmp_path)
    for index in range(len(stream.works)):
        await stream.do(index)
    found = {file.path: file for file in await api.store.files(stream.job)}
    images = ("thumbnails/0.jpg", "thumbnails/1.jpg", "sprite/0.jpg", "poster.jpg")
    assert {*images, "thumbnails.vtt", "sprite.vtt", "180p.mp4", "108p.mp4"} <= found.keys()
    for image in images:
        assert (await fetched(stream, image)).startswith(b"\xff\xd8\xff")
        assert found[image].media_type == "image/jpeg"
    assert "00:00:02.000 --> 00:00:04.000\nthumbnails/1.jpg" in await text(stream, "thumbnails.vtt")
    assert "00:00:02.000 --> 00:00:04.000\nsprite/0.jpg#xywh=64,0,64,36" in await text(stream, "sprite.vtt")


async def test_at_a_variable_rate_segments_end_when_the_next_picture_comes(
    api: Api, film: Path, tmp_path: Path
) -> None:
    source = tmp_path / "variable.mp4"
    thinned = ("-vf", "select='not(eq(mod(n\\,7)\\,3))'", "-fps_mode", "vfr")
    ffmpeg("-i", film, *thinned, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "copy", "-sn", source)
    stream = await begin(api, source, request(output={"container": "hls", "segment_seconds": 2}), CUTS_US, tmp_path)
    for index in (0, 1):
        await stream.do(index)
    assert (await text(stream, "180p/playlist.m3u8")).count("#EXTINF") == 1, "before there is a next window"
    for index in (3, 2):
        await stream.do(index)
    assert await lint(lambda path: fetched(stream, path)) == []
    starts = [
        int(line.split(".")[0]) for line in (await text(stream, "180p/playlist.m3u8")).splitlines() if "m4s" in line
    ]
    package = next(each for each in await api.store.packages(stream.job) if each.name == "180p")
    assert [segment.start + segment.duration for segment in package.segments] == starts[1:2]
