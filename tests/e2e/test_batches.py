"""A batch over two nodes: one dies, the worker of the other, and the orchestrator: complete, in order, paid once."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tandem.client import TandemClient, batch_inference
from tandem.client.inference import batch_result
from tandem.protocol.api import JobView
from tandem.protocol.jobs import AttemptState, JobState
from tests.e2e.market import Market, alive_in_group, until, watched
from tests.e2e.test_crashes import earned_is
from tests.fixtures.api import DIGITS

ROWS = 10_000
"""Some five shards."""


async def test_a_node_a_worker_and_the_orchestrator_die_in_mid_batch(market: Market, tmp_path: Path) -> None:
    values = np.random.default_rng(5).random((ROWS, 64), np.float32)
    np.savez(tmp_path / "rows.npz", image=values)
    orchestrator = market.start_orchestrator()
    nodes = {name: market.start_node(name, "--capacity.cpu", "1") for name in ("north", "south")}
    async with watched(market) as client:
        await market.ready(client, 2)
        await client.add_model("digits", "1", (await client.upload(DIGITS)).id)
        request = batch_inference((await client.upload(tmp_path / "rows.npz")).id, "digits", outputs=["probabilities"])
        assert (quote := await client.quote(request)).rows == ROWS
        job = await client.submit(request)
        died, left = await until("both nodes to work", partial(working, client, job.id))
        kill_worker(nodes[market.name_of(left)].process.pid)
        nodes[market.name_of(died)].kill()
        orchestrator.kill()
        market.start_orchestrator()
        done = await client.wait(job.id)
        assert done.state is JobState.SUCCEEDED, done.error
        result = batch_result(done)
        assert (result.rows, result.failed) == (ROWS, 0)
        await client.download(result.artifact, tmp_path / "answers.npz")
        check(values, tmp_path / "answers.npz")
        assert 0 < done.price.charged <= quote.price == done.price.quoted, "nodes may ask less"
        await check_books(market, client, done)


async def working(client: TandemClient, job_id: str) -> list[str] | None:
    """The two nodes, once both are at it and something is done."""
    job = await client.job(job_id)
    assert job.state in {JobState.PREPARING, JobState.QUEUED, JobState.RUNNING}, f"too late to interrupt it: {job}"
    found = {attempt.node for attempt in job.attempts if attempt.state is AttemptState.RUNNING}
    return sorted(found) if len(found) > 1 and job.progress.rows else None


def kill_worker(daemon: int) -> None:
    """The process that runs models: of the children the one with that module in its command."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in alive_in_group(daemon)}
    commands |= {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(daemon)}
    workers = [pid for pid, command in commands.items() if b"inference_worker" in command]
    assert workers, commands
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def check(values: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", path: Path) -> None:
    """Every row is answered, at its place."""
    session = ort.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["probabilities"], {"image": values})
    answers = np.load(path)
    assert answers.files == ["probabilities"]
    np.testing.assert_allclose(answers["probabilities"], expected, rtol=1e-4, atol=1e-5)


async def check_books(market: Market, client: TandemClient, job: JobView) -> None:
    """Each shard is paid once, and who lived has counted what it was granted."""
    accepted = [attempt.task for attempt in job.attempts if attempt.state is AttemptState.ACCEPTED]
    assert len(set(accepted)) == len(accepted)
    assert sum(a.price for a in job.attempts if a.state is AttemptState.ACCEPTED) <= (job.price.quoted or 0)
    (living,) = (node.address for node in (await client.nodes()).nodes)
    due = sum(attempt.earned for attempt in job.attempts if attempt.node == living)

    async def settled() -> bool:
        (node,) = (await client.nodes()).nodes
        return node.issued >= node.earned == due

    await until("tickets for what was earned", settled)
    await until("the node to count as much", partial(earned_is, market, market.name_of(living), due))
    assert market.ledger()["differences"] == []
