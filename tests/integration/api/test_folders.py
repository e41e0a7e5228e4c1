"""Folders of jobs: who may open them, and how files come out."""

from dataclasses import dataclass

import pytest
from multidict import CIMultiDictProxy

from orchestrator.core.packaging import JobFile
from orchestrator.core.records import JobRecord, Submission, TaskRecord
from tandem.protocol.ids import job_id, task_id
from tandem.protocol.jobs import ArtifactInput, JobState, TaskState, TranscodeRequest
from tests.fixtures.api import Api
from tests.fixtures.protocol import transcode_work

SEGMENT = bytes(range(200))


@dataclass(frozen=True, slots=True)
class Folder:
    api: Api
    job: str
    bearer: dict[str, str]
    signed: str

    @property
    def own(self) -> str:
        return f"/v1/jobs/{self.job}/files/"

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, CIMultiDictProxy[str], bytes]:
        async with self.api.http.request(method, self.api.url + path, headers=headers) as response:
            return response.status, response.headers, await response.read()


@pytest.fixture
async def folder(api: Api) -> Folder:
    """Of somebody's job that goes on: a segment, and a playlist."""
    key, token = await api.keys.create("somebody")
    source = await api.upload(b"source")
    request = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=source))
    job = job_id(1_800_000_000.0, bytes(8))
    record = JobRecord(job, key.id, request, JobState.QUEUED, price=5, created_at=1_800_000_000.0)
    task = TaskRecord(task_id(job, 0), transcode_work(), TaskState.WAITING, price=5)
    await api.store.submit(Submission(record, (task,), artifacts=(source,)))
    files = [
        JobFile(path=path, artifact=await api.upload(data), media_type=kind, size=len(data))
        for path, data, kind in (
            ("360p/0.m4s", SEGMENT, "video/iso.segment"),
            ("master.m3u8", b"#EXTM3U\n", "application/vnd.apple.mpegurl"),
        )
    ]
    await api.store.add_packages(job, [], files)
    bearer = {"Authorization": f"Bearer {token}"}
    _, view = await api.call("GET", f"/v1/jobs/{job}", headers=bearer)
    return Folder(api, job, bearer, view["folder"])


async def test_its_owner_reads_it_and_nobody_else(folder: Folder) -> None:
    status, headers, body = await folder.get(folder.own + "360p/0.m4s", **folder.bearer)
    assert (status, headers["Content-Type"], body) == (200, "video/iso.segment", SEGMENT)
    assert (await folder.get(folder.own + "360p/0.m4s", **await folder.api.bearer("another")))[0] == 404
    assert (await folder.get(folder.own + "360p/0.m4s"))[0] == 404, "this machine is somebody else too"
    status, found = await folder.api.call("GET", folder.own.rstrip("/"), headers=folder.bearer)
    assert (status, [file["path"] for file in found["files"]]) == (200, ["360p/0.m4s", "master.m3u8"])


async def test_a_player_needs_no_key_but_the_path_that_was_signed(folder: Folder) -> None:
    assert (await folder.get(folder.signed + "360p/0.m4s"))[0] == 200
    job, expires, signature = folder.signed.strip("/").split("/")[2:]
    later = f"/v1/folders/{job}/{int(expires) + 1}/{signature}/"
    other = f"/v1/folders/{job[:-1]}1/{expires}/{signature}/"
    assert {(await folder.get(path + "360p/0.m4s"))[0] for path in (later, other)} == {403}
    folder.api.clock.advance(7 * 24 * 3600 + 1)
    assert (await folder.get(folder.signed + "360p/0.m4s"))[0] == 403


@pytest.mark.parametrize(
    "path",
    ["360p/1.m4s", "../secret", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/url.key", "/etc/passwd", "360p/", "a%00b"],
)
async def test_nothing_is_found_but_its_files(folder: Folder, path: str) -> None:
    async with folder.api.http.get(folder.api.url + folder.signed + path, allow_redirects=False) as response:
        assert response.status in {403, 404}


async def test_pages_of_every_origin_may_read_it(folder: Folder) -> None:
    for base in (folder.own, folder.signed):
        status, headers, _ = await folder.get(
            base + "master.m3u8", "OPTIONS", Origin="https://player.example", **{"Access-Control-Request-Method": "GET"}
        )
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert "Range" in headers["Access-Control-Allow-Headers"]
    status, headers, _ = await folder.get(folder.signed + "360p/0.m4s", Origin="https://player.example")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")


async def test_segments_may_be_kept_and_playlists_asked_for_again(folder: Folder) -> None:
    _, segment, _ = await folder.get(folder.signed + "360p/0.m4s")
    _, playlist, _ = await folder.get(folder.signed + "master.m3u8")
    assert "immutable" in segment["Cache-Control"]
    assert playlist["Cache-Control"] == "no-cache"
    assert playlist["Content-Type"] == "application/vnd.apple.mpegurl"
    assert (await folder.get(folder.signed + "master.m3u8", **{"If-None-Match": playlist["ETag"]}))[0] == 304


async def test_a_range_of_it(folder: Folder) -> None:
    status, headers, body = await folder.get(folder.signed + "360p/0.m4s", Range="bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, "bytes 10-19/200", SEGMENT[10:20])
    assert (await folder.get(folder.signed + "360p/0.m4s", Range="bytes=900-"))[0] == 416
    assert (await folder.get(folder.signed + "360p/0.m4s", "HEAD"))[1]["Content-Length"] == "200"
