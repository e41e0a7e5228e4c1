"""The SDK against a real orchestrator, also over a line that breaks."""

import asyncio
import hashlib
import math
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from orchestrator.core import lifecycle
from orchestrator.core.records import Failure
from tandem.client import TandemClient, transcode
from tandem.clock import SystemClock
from tandem.protocol.api import TranscodeResult
from tandem.protocol.errors import (
    ExecutionFailed,
    FinalError,
    IdempotencyConflict,
    InvalidLadder,
    NotFound,
    Unauthorized,
    Unavailable,
)
from tandem.protocol.jobs import JobState
from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.api import DIGITS, NODE, Api


class Hurried(SystemClock):
    """Pauses between tries are not waited for."""

    async def sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture
async def client(api: Api) -> AsyncIterator[TandemClient]:
    async with TandemClient(api.url, clock=Hurried()) as client:
        yield client


@asynccontextmanager
async def bad_line(api: Api, breaks: Callable[[web.Request], bool]) -> AsyncIterator[str]:
    """A proxy that passes on every request, and loses the answers that it is told to lose."""

    async def pass_on(request: web.Request) -> web.Response:
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, api.url + request.path_qs, data=await request.read(), headers=request.headers
            ) as response,
        ):
            lost = breaks(request)
            if not lost:
                body = await response.read()
                return web.Response(body=body, status=response.status, content_type=response.content_type)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pass_on)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def finish(api: Api, job: str, data: bytes = b"rendition") -> None:
    rendition = FileResult(name="120p", artifact=await api.upload(data, "video/mp4"), size=len(data))
    await api.finish(job, await api.assign(job), TranscodeOutput(files=(rendition,)))


async def test_a_transcode_from_upload_to_download(api: Api, client: TandemClient, clip: bytes, tmp_path: Path) -> None:
    source, target, told = tmp_path / "clip.mp4", tmp_path / "out.mp4", list[tuple[int, int | None]]()
    source.write_bytes(clip)
    uploaded = await client.upload(source, "video/mp4", lambda *news: told.append(news))
    assert uploaded.id == f"sha256:{hashlib.sha256(clip).hexdigest()}"
    assert told[-1] == (len(clip), len(clip))

    request = transcode(uploaded.id, [RenditionRequest(height=120)])
    quote, job = await client.quote(request), await client.submit(request)
    assert job.price.quoted == quote.price > 0
    states = []
    async with asyncio.timeout(20):
        async for update in client.watch(job.id):
            states.append(update.state)
            if states == [JobState.QUEUED]:
                await finish(api, job.id)
    assert states[-1] is JobState.SUCCEEDED

    done = await client.wait(job.id)
    assert isinstance(done.result, TranscodeResult)
    assert await client.download(done.result.renditions[0].artifact, target) == target
    assert target.read_bytes() == b"rendition"
    assert [each.id for each in (await client.jobs(state=JobState.SUCCEEDED)).jobs] == [job.id]


async def test_an_inference_takes_and_gives_lists(api: Api, client: TandemClient) -> None:
    model = await client.add_model("digits", "1", (await client.upload(DIGITS)).id)
    assert await client.models() == (model,)
    async with asyncio.TaskGroup() as together:
        asked = together.create_task(client.infer("digits", {"image": [[0.5] * 64]}))
        job = await api.next_job()
        label = Tensor(name="label", datatype=Datatype.INT64, shape=(1,), data=(4).to_bytes(8, "little"))
        chances = Tensor(name="p", datatype=Datatype.FP32, shape=(1, 2), data=struct.pack("<2f", 0.5, math.inf))
        output = InferenceOutput(outputs=(label.meta, chances.meta), provider="CPUExecutionProvider")
        await api.finish(job, await api.assign(job), output, (label, chances))
    assert asked.result().outputs == {"label": [4], "p": [[0.5, math.inf]]}


async def test_an_inference_that_failed_raises_why(api: Api, client: TandemClient) -> None:
    await client.add_model("digits", "1", (await client.upload(DIGITS)).id)

    async def fail() -> None:
        job = await api.next_job()
        while (await api.store.job(job)).job.state is JobState.QUEUED:
            failure = Failure(ExecutionFailed.code, "no", retryable=False)
            await api.apply(lifecycle.Broken(await api.assign(job), NODE, failure), job)

    async with asyncio.TaskGroup() as together:
        together.create_task(fail())
        with pytest.raises(FinalError, match="no"):
            await client.infer("digits", {"image": [0] * 64})


async def test_errors_come_as_their_types(api: Api, client: TandemClient, clip: bytes) -> None:
    artifact = await api.upload(clip)
    with pytest.raises(NotFound):
        await client.job("job_" + "0" * 28)
    with pytest.raises(NotFound):
        await client.model("no/body")
    with pytest.raises(InvalidLadder, match="never upscaled"):
        await client.submit(transcode(artifact, [RenditionRequest(height=720)]))
    await client.submit(transcode(artifact), idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await client.submit(transcode(artifact, [RenditionRequest(height=96)]), idempotency_key="k")
    async with TandemClient(api.url, "tdm_wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.nodes()
    assert (await client.nodes()).nodes == ()


async def test_cancelling_ends_the_wait(api: Api, client: TandemClient, clip: bytes) -> None:
    job = await client.submit(transcode(await api.upload(clip)))
    async with asyncio.TaskGroup() as together:
        waiting = together.create_task(client.wait(job.id))
        assert (await client.cancel(job.id)).state is JobState.CANCELLED
    assert waiting.result().state is JobState.CANCELLED


async def test_a_lost_answer_does_not_submit_twice(api: Api, clip: bytes) -> None:
    losses = [True, True]
    async with (
        bad_line(api, lambda request: request.method == "POST" and bool(losses) and losses.pop()) as url,
        TandemClient(url, (await api.keys.create("me"))[1], clock=Hurried()) as client,
    ):
        job = await client.submit(transcode(await api.upload(clip)))
        assert losses == []
        assert [each.id for each in (await client.jobs()).jobs] == [job.id]


async def test_where_streams_do_not_get_through_the_job_is_polled(api: Api, clip: bytes) -> None:
    async with (
        bad_line(api, lambda request: request.path.endswith("/events")) as url,
        TandemClient(url, (await api.keys.create("me"))[1], clock=Hurried()) as client,
    ):
        job = await client.submit(transcode(await api.upload(clip)))
        async with asyncio.TaskGroup() as together:
            waiting = together.create_task(client.wait(job.id))
            await finish(api, job.id)
        assert waiting.result().state is JobState.SUCCEEDED


async def test_an_orchestrator_that_is_not_there_is_unavailable(api: Api) -> None:
    await api.shutdown()
    async with TandemClient(api.url, patience=0) as client:
        with pytest.raises(Unavailable, match="is it running"):
            await client.submit(transcode("sha256:" + "0" * 64))
        with pytest.raises(Unavailable):
            await client.wait("job_" + "0" * 28)


async def test_what_is_no_orchestrator_is_said_to_be_none() -> None:
    app = web.Application()
    async with TestServer(app) as server, TandemClient(str(server.make_url("/"))) as client:
        with pytest.raises(FinalError, match="expected an answer from an orchestrator, got HTTP 404"):
            await client.models()
