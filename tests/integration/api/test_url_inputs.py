"""Jobs whose input is at a URL, from the submission to the queue."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from tandem.client import TandemClient, transcode
from tandem.protocol.errors import UrlForbidden
from tandem.protocol.jobs import JobState
from tests.fixtures.api import UPLOAD_LIMIT, Api, Json
from tests.fixtures.origin import Origin, answer, redirect, run_origin
from tests.integration.api.test_cli import do_transcode, tandem


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with run_origin() as running:
        yield running


def request(url: str, **more: Any) -> dict[str, Any]:
    return {"kind": "transcode", "input": {"url": url}, **more}


async def ended(api: Api, url: str, **more: Any) -> Json:
    """The job once it is no longer being prepared."""
    status, job = await api.call("POST", "/v1/jobs", json=request(url, **more))
    assert (status, job["state"], job["price"]["quoted"]) == (201, "preparing", None)
    with api.events.subscribe(job["id"]) as news:
        async with asyncio.timeout(10):
            while job["state"] == "preparing":
                _, job = await api.call("GET", f"/v1/jobs/{job['id']}")
                if job["state"] == "preparing":
                    await news.next()
    return job


async def test_a_url_is_answered_at_once_and_queued_once_it_is_here(api: Api, origin: Origin, clip: bytes) -> None:
    origin.pages["/clip.mp4"] = answer(clip, "Content-Type: video/mp4")
    job = await ended(api, origin.url("/clip.mp4"))
    price = 160 * 120 * 10 * 10**9 // 10**6
    assert (job["state"], job["price"]["quoted"]) == ("queued", str(price))
    assert job["request"]["input"] == {"url": origin.url("/clip.mp4")}
    (task,) = (await api.store.job(job["id"])).tasks
    assert task.price == price
    async with api.http.get(f"{api.url}/v1/artifacts/{task.work.source}") as response:  # type: ignore[union-attr]
        assert (response.content_type, await response.read()) == ("video/mp4", clip)
    assert await api.store.preparations() == []
    assert api.wakes.count == 1
    assert await api.store.delete_orphans(0) == [], "the source is kept for the job"


FAILURES: list[tuple[Any, dict[str, Any], str, str]] = [
    (answer(b"not a video" * 100), {}, "unreadable_media", ""),
    (answer(b""), {}, "url_refused", "without a byte"),
    (answer(b"", status="404 Not Found"), {}, "url_refused", "HTTP 404"),
    (answer(b"", status="500 Broken"), {}, "url_unavailable", "HTTP 500"),
    (answer(b"part", length=99), {}, "url_unavailable", "ClientPayloadError"),
    (answer(b"x", length=UPLOAD_LIMIT + 1), {}, "too_large", "got one of"),
    (redirect("http://127.0.0.2/"), {}, "url_forbidden", "public internet"),
]


@pytest.mark.parametrize(("page", "more", "code", "said"), FAILURES)
async def test_a_job_that_cannot_be_prepared_fails_with_a_name(
    api: Api, origin: Origin, page: Any, more: dict[str, Any], code: str, said: str
) -> None:
    origin.pages["/"] = page
    job = await ended(api, origin.url("/?secret=token"), **more)
    assert (job["state"], job["error"]["code"]) == ("failed", code)
    assert said in job["error"]["detail"]
    assert "token" not in job["error"]["detail"]
    assert await api.store.preparations() == []
    again = code == "url_unavailable"
    assert len(origin.heads) == (2 if again else 1), "only what may pass is tried again"


async def test_a_file_that_grows_beyond_its_bound_is_dropped(api: Api, origin: Origin) -> None:
    async def grow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(2**20))
            await writer.drain()

    origin.pages["/"] = grow
    job = await ended(api, origin.url("/"))
    assert job["error"]["code"] == "too_large"
    assert api.files() == []


async def test_what_passes_is_tried_again(api: Api, origin: Origin, clip: bytes) -> None:
    origin.scripts["/"] = [answer(clip[:100], length=len(clip))]
    origin.pages["/"] = answer(clip)
    assert (await ended(api, origin.url("/")))["state"] == "queued"
    assert len(origin.heads) == 2


async def test_a_job_dearer_than_it_may_be_fails_and_one_of_known_price_is_refused(
    api: Api, origin: Origin, clip: bytes
) -> None:
    origin.pages["/"] = answer(clip)
    price = 160 * 120 * 10 * 10**9 // 10**6
    job = await ended(api, origin.url("/"), max_price=str(price - 1))
    assert (job["state"], job["error"]["code"]) == ("failed", "price_exceeded")
    assert (await ended(api, origin.url("/"), max_price=price))["state"] == "queued"
    given = {"kind": "transcode", "input": {"artifact": await api.upload(clip)}, "max_price": "1"}
    for path in ("/v1/jobs", "/v1/quotes"):
        status, problem = await api.call("POST", path, json=given)
        assert (status, problem["code"]) == (400, "price_exceeded")


async def test_a_private_url_is_refused_at_once(api: Api) -> None:
    for url in ("http://127.0.0.2/", "http://[::1]/", "http://2130706434/"):
        status, problem = await api.call("POST", "/v1/jobs", json=request(url))
        assert (status, problem["code"]) == (400, "url_forbidden")
    async with TandemClient(api.url) as client:
        with pytest.raises(UrlForbidden):
            await client.submit(transcode("http://10.0.0.1/"))
    assert (await api.call("GET", "/v1/jobs"))[1]["jobs"] == []


async def test_a_url_has_no_quote(api: Api, origin: Origin) -> None:
    status, problem = await api.call("POST", "/v1/quotes", json=request(origin.url("/")))
    assert (status, problem["code"]) == (400, "invalid_request")
    assert "max_price" in problem["detail"]
    assert origin.heads == []


async def test_a_fetch_shows_and_ends_when_its_job_is_cancelled(api: Api, origin: Origin) -> None:
    origin.pages["/"] = origin.endless(b"x" * 10_000)
    _, job = await api.call("POST", "/v1/jobs", json=request(origin.url("/")))
    async with TandemClient(api.url) as client, aclosing(client.watch(job["id"])) as updates:
        seen = await anext(updates)
        while not seen.percent:
            seen = await anext(updates)
        assert (seen.state, seen.percent) == (JobState.PREPARING, 1.0)
        _, view = await api.call("GET", f"/v1/jobs/{job['id']}")
        assert view["progress"]["fetched_bytes"] == 10_000
        await client.cancel(job["id"])
        async for update in updates:
            seen = update
        assert seen.state is JobState.CANCELLED
    async with asyncio.timeout(5):
        await origin.left.wait()
    assert api.files() == []
    assert await api.store.preparations() == []


async def test_the_same_key_is_the_same_job_also_by_url(api: Api, origin: Origin, clip: bytes) -> None:
    origin.pages["/"] = answer(clip)
    headers = {"Idempotency-Key": "once"}
    jobs = [(await api.call("POST", "/v1/jobs", json=request(origin.url("/")), headers=headers))[1] for _ in "ab"]
    assert jobs[0]["id"] == jobs[1]["id"]
    await api.next_job()
    assert len(origin.heads) == 1


async def test_the_command_takes_a_url(api: Api, origin: Origin, clip: bytes, tmp_path: Any) -> None:
    origin.pages["/films/clip.mp4"] = answer(clip)
    async with asyncio.TaskGroup() as together:
        together.create_task(do_transcode(api))
        url, output = origin.url("/films/clip.mp4?sig=x"), tmp_path / "out"
        result = await tandem(api, "transcode", url, "-r", "96", "-o", output, "--max-price", "1ether", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["request"]["max_price"] == str(10**18)
    assert [path.name for path in output.iterdir()] == ["clip-96p.mp4"]
    assert (await tandem(api, "transcode", "ftp://x/")).exit_code == 2
    assert (await tandem(api, "transcode", "http://10.0.0.1/")).exit_code == 3
