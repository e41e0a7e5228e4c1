"""A job's server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientResponse

from orchestrator.core import lifecycle
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.progress import JobProgress, RenditionProgress
from orchestrator.core.records import JobChanges, JobSnapshot
from orchestrator.web.call import Limits
from tandem.client.updates import EventReader
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.fixtures.api import NODE, Api, run_api


async def job(api: Api, clip: bytes) -> str:
    artifact = await api.upload(clip)
    _, body = await api.call("POST", "/v1/jobs", json={"kind": "transcode", "input": {"artifact": artifact}})
    return str(body["id"])


@asynccontextmanager
async def stream(api: Api, job_id: str, headers: dict[str, str] | None = None) -> AsyncIterator[ClientResponse]:
    async with api.http.get(f"{api.url}/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.content_type == "text/event-stream"
        yield response


async def event(response: ClientResponse) -> tuple[str, str]:
    reader = EventReader()
    async for line in response.content:
        if (found := reader.feed(line.decode().rstrip("\n"))) is not None:
            return found
    raise EOFError


async def test_a_stream_tells_states_and_progress_and_ends_with_the_job(api: Api, clip: bytes) -> None:
    job_id = await job(api, clip)
    async with stream(api, job_id, {"Last-Event-ID": "nonsense"}) as response:
        assert await event(response) == ("state", '{"state":"queued"}')
        rest = '"fetched_bytes":null,"rows":null,"rows_total":null}'
        nothing = f'{{"percent":0.0,"remaining_seconds":null,"speed":null,"renditions":[],{rest}'
        assert await event(response) == ("progress", nothing)
        ref = await api.assign(job_id)
        assert await event(response) == ("state", '{"state":"running"}')
        api.events.publish_progress(job_id, JobProgress(425, 1.5, 2.0, (RenditionProgress("120p", 425),)))
        each = '[{"name":"120p","percent":42.5}]'
        some = f'{{"percent":42.5,"remaining_seconds":1.5,"speed":2.0,"renditions":{each},{rest}'
        assert await event(response) == ("progress", some)
        assert (await api.call("GET", f"/v1/jobs/{job_id}"))[1]["progress"]["percent"] == 42.5
        rendition = FileResult(name="120p", artifact=await api.upload(b"x"), size=1)
        await api.apply(lifecycle.Finished(ref, NODE, TranscodeOutput(files=(rendition,))), job_id)
        assert await event(response) == ("state", '{"state":"verifying"}')
        await api.apply(lifecycle.Accepted(ref), job_id)
        assert await event(response) == ("state", '{"state":"succeeded"}')
        assert await event(response) == ("end", '{"state":"succeeded"}')
        assert await response.content.read() == b""


async def test_a_job_that_is_over_ends_the_stream_at_once(api: Api, clip: bytes) -> None:
    job_id = await job(api, clip)
    await api.call("DELETE", f"/v1/jobs/{job_id}")
    async with stream(api, job_id) as response:
        body = await response.text()
    assert body == 'event: state\ndata: {"state":"cancelled"}\n\nevent: end\ndata: {"state":"cancelled"}\n\n'


async def test_a_quiet_stream_shows_that_it_lives_and_asks_the_store(tmp_path: Path, clip: bytes) -> None:
    async with run_api(tmp_path, limits=Limits(heartbeat=0.05)) as api:
        job_id = await job(api, clip)
        async with stream(api, job_id) as response:
            lines = aiter(response.content)
            assert b": still here\n" in [await anext(lines) for _ in range(7)]

            def cancel(snapshot: JobSnapshot, now: float) -> JobChanges:
                return lifecycle.decide(snapshot, lifecycle.Cancelled(), now, RetryPolicy())

            await api.store.decide([job_id], cancel)  # as another replica would: nothing is published here
            assert [line async for line in lines][-2] == b'data: {"state":"cancelled"}\n'


async def test_a_listener_that_leaves_is_forgotten(api: Api, clip: bytes) -> None:
    job_id = await job(api, clip)
    async with stream(api, job_id) as response:
        await event(response)
        assert job_id in api.events._subscriptions
    async with asyncio.timeout(10):
        while job_id in api.events._subscriptions:
            api.events.publish_progress(job_id, JobProgress(1))
            await asyncio.to_thread(api.files)


async def test_head_tells_without_streaming(api: Api, clip: bytes) -> None:
    async with api.http.head(f"{api.url}/v1/jobs/{await job(api, clip)}/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")


async def test_going_down_ends_the_streams(api: Api, clip: bytes) -> None:
    async with stream(api, await job(api, clip)) as response:
        await event(response)
        async with asyncio.timeout(5):
            await api.shutdown()
        assert (await response.text()).startswith("event: progress")
