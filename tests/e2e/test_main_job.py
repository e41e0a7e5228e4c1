"""The main job: a video and a model in over HTTP, the work done by nodes, paid on a chain."""

import asyncio
from pathlib import Path

from sklearn.datasets import load_digits

from tandem.client import TandemClient
from tandem.client.requests import transcode
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.api import InferenceResult, JobView, TranscodeResult
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import JobState
from tandem.protocol.ladder import RenditionRequest
from tests.e2e.market import FACE_VALUE, Market, alive_in_group, until, watched
from tests.fixtures.media import CLIPS

CLIP = CLIPS / "bbb_720p25_aac51.mp4"
FRAMES = 132
MODEL = Path(__file__).parents[2] / "models" / "digits" / "digits.onnx"
LADDER = [RenditionRequest(height=height) for height in (480, 360, 240)]


async def submit_transcode(client: TandemClient) -> JobView:
    artifact = await client.upload(CLIP, "video/mp4")
    return await client.submit(transcode(artifact.id, LADDER))


async def check_renditions(client: TandemClient, job: JobView, folder: Path) -> None:
    """Downloads every rendition and looks at it with eyes of our own."""
    assert job.state is JobState.SUCCEEDED, job
    assert isinstance(job.result, TranscodeResult)
    assert [rendition.height for rendition in job.result.renditions] == [480, 360, 240]
    for rendition in job.result.renditions:
        path = await client.download(rendition.artifact, folder / f"{rendition.name}.mp4")
        media = (await inspect_media(path, sandbox=Sandbox.LIMITS, clock=SystemClock())).media
        assert media.video is not None
        assert (media.video.width, media.video.height) == (rendition.width, rendition.height)
        assert (media.video.codec, media.video.frames) == ("h264", FRAMES)
        assert [stream.codec for stream in media.audio] == ["aac"]


async def test_main_job(market: Market, tmp_path: Path) -> None:
    orchestrator = market.start_orchestrator()
    nodes = [market.start_node(name) for name in ("north", "south")]
    async with watched(market) as client:
        await market.ready(client, 2)
        before = {name: await market.balance(name) for name in market.addresses}
        deposit = await market.deposit()

        transcoded = await client.wait((await submit_transcode(client)).id)
        await check_renditions(client, transcoded, tmp_path)

        model = await client.upload(MODEL)
        await client.add_model("digits", "1", model.id)
        images, labels = load_digits(return_X_y=True)
        answers = await asyncio.gather(*(client.infer("digits", {"image": [image.tolist()]}) for image in images[:8]))
        right = sum(int(answer.outputs["label"][0]) == label for answer, label in zip(answers, labels[:8], strict=True))
        assert right >= 7

        jobs = [await client.job(summary.id) for summary in (await client.jobs()).jobs]
        charged = sum(job.price.charged for job in jobs)
        assert all(0 < job.price.charged <= (job.price.quoted or 0) for job in jobs)
        assert isinstance(transcoded.result, TranscodeResult)
        assert all(isinstance(job.result, InferenceResult) for job in jobs if job.kind == "inference")

        async def paid() -> bool:
            accounts = (await client.nodes()).nodes
            return sum(node.earned for node in accounts) == charged and all(
                node.issued >= node.earned for node in accounts
            )

        await until("tickets for everything", paid)
        worker = transcoded.attempts[0].node
        name = next(name for name, address in market.addresses.items() if address == worker)
        face_value = await until("a redeemed winner", lambda: redeemed(market, name))
        rise = await market.balance(name) - before[name]
        assert rise > 0, "gas of a redemption is to be well below what it pays"
        assert (deposit - await market.deposit()) % FACE_VALUE == 0
        assert face_value % FACE_VALUE == 0

        for running in (*nodes, orchestrator):
            assert running.terminate() == 0
            assert alive_in_group(running.process.pid) == []


def redeemed(market: Market, name: str) -> int:
    """Wei that the node has redeemed, by its own status."""
    return int(market.status(name)["redeemed"])
