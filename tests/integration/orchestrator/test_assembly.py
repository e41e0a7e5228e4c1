"""Results of tasks put together: an MP4 of windows, streams that can be played while they are made."""

from pathlib import Path

import pytest

from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import JobState
from tests.fixtures.api import Api
from tests.fixtures.hls import lint
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
    target = tmp_path / "180p.mp4"
    async with api.http.get(f"{api.url}{stream.path}180p.mp4") as response:
        assert response.headers["Content-Type"] == "video/mp4"
        target.write_bytes(await response.read())
    source = await inspect_media(target, sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert source.media.video is not None
    assert (source.media.video.frames, len(source.media.audio)) == (180, 1)


async def text(stream: Stream, path: str) -> str:
    return (await fetched(stream, path)).decode()


async def fetched(stream: Stream, path: str) -> bytes:
    """As a player does: by the signed folder, with no key."""
    _, job = await stream.api.call("GET", f"/v1/jobs/{stream.job}")
    async with stream.api.http.get(stream.api.url + job["folder"] + path) as response:
        assert response.status == 200, (path, response.status)
        return await response.read()


@pytest.mark.parametrize("container", ["hls", "cmaf"])
async def test_a_stream_grows_window_by_window(api: Api, film: Path, tmp_path: Path, container: str) -> None:
    asked = request(output={"container": container, "segment_seconds": 2})
    stream = await begin(api, film, asked, CUTS_US, tmp_path)
    await stream.do(1)
    assert (await api.call("GET", f"{stream.path}master.m3u8"))[0] == 404, "there is no sound yet"
    await stream.do(0)
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
    assert ("manifest.mpd" in {file.path for file in await api.store.files(stream.job)}) == (container == "cmaf")


async def test_transport_streams_on_request(api: Api, film: Path, tmp_path: Path) -> None:
    asked = request(output={"container": "hls", "segment_format": "ts", "segment_seconds": 2})
    stream = await begin(api, film, asked, CUTS_US, tmp_path)
    for index in range(len(stream.works)):
        await stream.do(index)
    assert await lint(lambda path: fetched(stream, path)) == []
    assert "X-TIMESTAMP-MAP=MPEGTS:900000" in await text(stream, "subtitles0/captions.vtt")
