"""A batch over two nodes, of which one dies, and the worker of the other: complete, in order, and paid once."""

from functools import partial
from pathlib import Path

import numpy as np

from tandem.client import batch_inference
from tandem.client.inference import batch_result
from tandem.protocol.jobs import JobState
from tests.e2e.market import Market, until, watched
from tests.fixtures.api import DIGITS

ROWS = 16_000
"""Shards take a second each, by the model's cost."""


async def test_a_node_and_a_worker_die_in_mid_batch(market: Market, tmp_path: Path) -> None:
    values = np.random.default_rng(5).random((ROWS, 64), np.float32)
    np.savez(tmp_path / "rows.npz", image=values)
    market.start_orchestrator()
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
        done = await client.wait(job.id)
        assert done.state is JobState.SUCCEEDED, done.error
        result = batch_result(done)
        assert (result.rows, result.failed) == (ROWS, 0)
        await client.download(result.artifact, tmp_path / "answers.npz")
        check(values, tmp_path / "answers.npz")
        assert done.price.charged == quote.price == done.price.quoted
        await check_books(market, client, done)
