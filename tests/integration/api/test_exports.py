"""Results written to URLs of the submitter, as presigned ones of a bucket are."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.lifecycle import Accepted, Assembled, Assigned, Finished
from orchestrator.core.packaging import JobFile
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.media import Source
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.conformance.store.samples import MEDIA
from tests.fixtures.api import NODE, Api, Json, run_api
from tests.fixtures.bucket import Bucket, run_bucket
from tests.fixtures.origin import Origin, answer, run_origin

OK = answer(b"")
FOLDER = {
    "master.m3u8": ("application/vnd.apple.mpegurl", b"#EXTM3U master"),
    "720p/playlist.m3u8": ("application/vnd.apple.mpegurl", b"#EXTM3U"),
    "720p/init.mp4": ("video/mp4", b"init"),
    "720p/0.m4s": ("video/iso.segment", bytes(300_000)),
}
FILES = {"720p": b"large", "360p": b"small!"}


@pytest.fixture
async def bucket() -> AsyncIterator[Origin]:
    async with run_origin() as running:
        running.pages |= {"/720p": OK, "/360p": OK}
        yield running


def uploads(bucket: Origin) -> dict[str, str]:
    return {name: bucket.url(f"/{name}?X-Amz-Signature=%2fsecret") for name in FILES}


async def request(api: Api, upload: Any) -> Json:
    artifact = await api.upload(b"video")
    await api.store.save_media(artifact, Source(media=MEDIA))
    ladder = [{"height": 720}, {"height": 360}]
    return {"kind": "transcode", "input": {"artifact": artifact}, "ladder": ladder, "output": {"upload": upload}}


async def done(api: Api, upload: Any) -> str:
    """A job with all its renditions, which are being written from now on."""
    status, job = await api.call("POST", "/v1/jobs", json=await request(api, upload))
    assert status == 201, job
    found = [
        FileResult(name=name, artifact=await api.upload(data, "video/mp4"), size=len(data))
        for name, data in FILES.items()
    ]
    ref = AttemptRef(task=f"{job['id']}.0", number=1)
    output = TranscodeOutput(files=tuple(found))
    for event in (Assigned(ref.task, NODE, 5, 60), Finished(ref, NODE, output), Accepted(ref)):
        await api.apply(event, job["id"])
    return str(job["id"])


async def ended(api: Api, job: str) -> Json:
    with api.events.subscribe(job) as news:
        async with asyncio.timeout(10):
            while (view := (await api.call("GET", f"/v1/jobs/{job}"))[1])["state"] == "exporting":
                await news.next()
    return view


async def test_a_job_succeeds_once_its_results_are_written(api: Api, bucket: Origin) -> None:
    view = await ended(api, await done(api, uploads(bucket)))
    assert (view["state"], view["export"]) == ("succeeded", {"written": ["720p", "360p"], "tries": 0, "error": None})
    assert bucket.bodies == list(FILES.values())
    head = bucket.heads[0]
    assert head.startswith("PUT /720p?X-Amz-Signature=%2fsecret HTTP/1.1\r\n")
    assert "Content-Length: 5\r\n" in head
    assert "Content-Type: video/mp4\r\n" in head
    assert "chunked" not in head
    assert view["price"]["charged"] == "5"


async def test_some_of_the_results_are_enough(api: Api, bucket: Origin) -> None:
    view = await ended(api, await done(api, {"360p": bucket.url("/360p")}))
    assert (view["state"], view["export"]["written"]) == ("succeeded", ["360p"])
    assert len(view["result"]["renditions"]) == 2


async def test_what_passes_is_tried_again_and_what_is_there_is_not(api: Api, bucket: Origin) -> None:
    bucket.scripts["/360p"] = [answer(b"", status="503 Slow Down")]
    view = await ended(api, await done(api, uploads(bucket)))
    assert (view["state"], view["export"]["tries"]) == ("succeeded", 1)
    assert bucket.bodies == [b"large", b"small!", b"small!"]


@pytest.fixture
async def s3() -> AsyncIterator[Bucket]:
    async with run_bucket() as running:
        yield running


async def streamed(api: Api, upload: Any) -> str:
    """A job of a stream whose folder is complete."""
    asked = await request(api, upload)
    asked["output"]["container"] = "hls"
    status, job = await api.call("POST", "/v1/jobs", json=asked)
    assert status == 201, job
    files = [
        JobFile(path=path, artifact=await api.upload(data), media_type=kind, size=len(data))
        for path, (kind, data) in FOLDER.items()
    ]
    await api.store.add_packages(job["id"], [], files)
    snapshot = await api.store.job(job["id"])
    for task in snapshot.tasks:
        assert isinstance(task.work, TranscodeWork)
        made = [FileResult(name=name, artifact=await api.upload(b"x"), size=1) for name in task.work.names]
        ref = AttemptRef(task=task.id, number=1)
        for event in (
            Assigned(ref.task, NODE, 5, 60),
            Finished(ref, NODE, TranscodeOutput(files=tuple(made))),
            Accepted(ref),
        ):
            await api.apply(event, job["id"])
    await api.apply(Assembled(), job["id"])
    return str(job["id"])


async def test_a_folder_is_written_to_a_bucket_by_one_form(api: Api, s3: Bucket) -> None:
    s3.busy = 1
    view = await ended(api, await streamed(api, s3.form("films/7/")))
    assert (view["state"], view["export"]["tries"]) == ("succeeded", 1)
    assert s3.files == {f"films/7/{path}": file for path, file in FOLDER.items()}
    assert s3.order[-2:] == ["films/7/720p/playlist.m3u8", "films/7/master.m3u8"]
    assert sorted(view["export"]["written"]) == sorted(FOLDER)


async def test_all_of_an_mp4_job_is_written_by_a_form_too(api: Api, s3: Bucket) -> None:
    view = await ended(api, await done(api, s3.form("a/")))
    assert view["state"] == "succeeded"
    assert s3.files == {f"a/{name}.mp4": ("video/mp4", data) for name, data in FILES.items()}


async def test_a_form_that_is_no_longer_good_fails_the_job(api: Api, s3: Bucket) -> None:
    view = await ended(api, await done(api, s3.form("a/", seconds=-1)))
    assert (view["state"], view["error"]["code"], s3.files) == ("failed", "url_refused", {})
    assert "signature" not in str(view["error"])


@pytest.mark.parametrize(
    ("status", "code"),
    [("403 Forbidden", "url_refused"), ("307 Temporary Redirect", "url_refused"), ("500 Broken", "url_unavailable")],
)
async def test_what_cannot_be_written_fails_the_job_and_stays(api: Api, bucket: Origin, status: str, code: str) -> None:
    bucket.pages["/360p"] = answer(b"", f"Location: {bucket.url('/720p')}", status=status)
    view = await ended(api, await done(api, uploads(bucket)))
    assert (view["state"], view["error"]["code"], view["export"]["written"]) == ("failed", code, ["720p"])
    assert "secret" not in view["error"]["detail"]
    assert [each["name"] for each in view["result"]["renditions"]] == ["720p", "360p"]


async def test_an_export_ends_when_its_job_is_cancelled(api: Api, bucket: Origin) -> None:
    begun = asyncio.Event()

    async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        bucket.left.set()

    bucket.pages["/720p"] = never
    job = await done(api, uploads(bucket))
    async with asyncio.timeout(10):
        await begun.wait()
        status, view = await api.call("DELETE", f"/v1/jobs/{job}")
        assert (status, view["state"]) == (200, "cancelled")
        await bucket.left.wait()
    assert len(bucket.heads) == 1


async def test_an_export_goes_on_after_a_restart(tmp_path: Path, bucket: Origin) -> None:
    bucket.pages["/360p"] = bucket.endless(b"")
    async with run_api(tmp_path) as api:
        job = await done(api, uploads(bucket))
        async with asyncio.timeout(10), bucket.news:
            await bucket.news.wait_for(lambda: len(bucket.bodies) == 2)
    bucket.pages["/360p"] = OK
    async with run_api(tmp_path) as api:
        assert (await ended(api, job))["state"] == "succeeded"
    assert bucket.bodies[0] == b"large"
    assert bucket.bodies[1:] == [b"small!"] * (len(bucket.bodies) - 1)


WRONG: list[tuple[Any, str]] = [
    ({"1080p": "https://bucket.example/"}, "invalid_request"),
    ({"720p": "s3://bucket/key"}, "invalid_request"),
    ({"720p": "http://127.0.0.2/"}, "url_forbidden"),
    ({"../x": "https://bucket.example/"}, "invalid_request"),
    ({"url": "https://bucket.example/", "fields": {"key": "one"}}, "invalid_request"),
    ({"url": "https://bucket.example/", "fields": {"key": "${filename}", "a\r\nb": ""}}, "invalid_request"),
    ({"url": "http://169.254.169.254/", "fields": {"key": "${filename}"}}, "url_forbidden"),
]


async def test_a_wrong_upload_is_refused(api: Api) -> None:
    for upload, code in WRONG:
        status, problem = await api.call("POST", "/v1/jobs", json=await request(api, upload))
        assert (status, problem["code"]) == (400, code)
