"""Nodes die by SIGKILL again and again during a split job: the output is whole to the frame, nothing is paid twice.

Once here; as often as TANDEM_CHAOS_KILLS says in `make soak`.
"""

import os
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av

from tandem.client import TandemClient, transcode
from tandem.protocol.api import JobView, TranscodeResult
from tandem.protocol.jobs import AttemptState, JobState
from tandem.protocol.ladder import RenditionRequest
from tests.e2e.market import Market, Running, until, watched
from tests.fixtures.media import ffmpeg

KILLS = int(os.environ.get("TANDEM_CHAOS_KILLS", "1"))
SECONDS = 24 + 12 * KILLS
RATE = 25
NAMES = ("north", "south", "east")[: 1 + KILLS]
LADDER = (RenditionRequest(height=180), RenditionRequest(height=90, audio=None))
ALIKE = 12
"""Mean difference of two pictures' samples, of 255, below which they show the same."""


def film(path: Path) -> Path:
    scene = f"testsrc2=size=320x180:rate={RATE}:duration={SECONDS}"
    sound = ("-f", "lavfi", "-i", f"sine=duration={SECONDS}", "-c:a", "aac")
    ffmpeg("-f", "lavfi", "-i", scene, *sound, "-c:v", "libx264", "-preset", "veryfast", "-g", "50", str(path))
    return path


def pictures(path: Path) -> list[tuple[Fraction, bytes]]:
    """Each frame's time, and what it shows, small and grey."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        tick = stream.time_base or Fraction(1)
        shown = [
            (frame.pts or 0, frame.reformat(width=32, height=18, format="gray")) for frame in container.decode(stream)
        ]
    return [((time - shown[0][0]) * tick, picture.to_ndarray().tobytes()) for time, picture in shown]


def check_pictures(source: Path, output: Path) -> None:
    wanted, found = pictures(source), pictures(output)
    assert [time for time, _ in found] == [time for time, _ in wanted]
    for (time, right), (_, shown) in zip(wanted, found, strict=True):
        difference = sum(abs(one - other) for one, other in zip(right, shown, strict=True)) / len(right)
        assert difference < ALIKE, f"another picture at {float(time):.2f} s"


def check_books(job: JobView, earned: dict[str, int]) -> None:
    """One accepted attempt a task; each node has earned what its attempts did, and no more."""
    accepted = [attempt for attempt in job.attempts if attempt.state is AttemptState.ACCEPTED]
    assert len({attempt.task for attempt in accepted}) == len(accepted) == len({each.task for each in job.attempts})
    assert all(attempt.earned == attempt.price for attempt in accepted)
    assert job.price.charged == sum(attempt.price for attempt in accepted) <= (job.price.quoted or 0)
    due: Counter[str] = Counter()
    for attempt in job.attempts:
        assert not attempt.earned or attempt.state in {AttemptState.ACCEPTED, AttemptState.CANCELLED}
        due[attempt.node] += attempt.earned
    assert {node: amount for node, amount in due.items() if amount} == {n: e for n, e in earned.items() if e}


async def victim(client: TandemClient, job_id: str, choice: random.Random, tasks_done: int) -> str:
    """A node that is at work, once so many tasks are done."""

    async def found() -> str | None:
        attempts = (await client.job(job_id)).attempts
        done = sum(attempt.state is AttemptState.ACCEPTED for attempt in attempts)
        working = sorted({attempt.node for attempt in attempts if attempt.state is AttemptState.RUNNING})
        return choice.choice(working) if working and done >= tasks_done else None

    return str(await until("a node at work", found))


async def test_nodes_that_die_at_random_cost_time_alone(market: Market, tmp_path: Path) -> None:
    source, choice = film(tmp_path / "film.mp4"), random.Random(7)  # noqa: S311
    market.start_orchestrator()
    nodes: dict[str, Running] = {name: market.start_node(name, "--capacity.cpu", "1") for name in NAMES}
    async with watched(market) as client:
        await market.ready(client, len(NAMES))
        request = transcode((await client.upload(source, "video/mp4")).id, LADDER)
        assert (await client.quote(request)).tasks > KILLS
        job = await client.submit(request)
        for number in range(KILLS):
            name = market.name_of(await victim(client, job.id, choice, number))
            nodes[name].kill()
            nodes[name] = market.start_node(name, "--capacity.cpu", "1")
        done = await client.wait(job.id)
        assert done.state is JobState.SUCCEEDED, done.error
        assert isinstance(done.result, TranscodeResult)
        for rendition in done.result.renditions:
            await client.download(rendition.artifact, tmp_path / rendition.name)
            check_pictures(source, tmp_path / rendition.name)
        await market.ready(client, len(NAMES))
        check_books(done, {node.address: node.earned for node in (await client.nodes()).nodes})
