"""Any process may die by SIGKILL at any instant: the job ends well, nothing is paid twice, nothing is lost."""

from functools import partial
from pathlib import Path

from tandem.client import TandemClient
from tandem.protocol.jobs import AttemptState, JobState
from tests.e2e.market import Market, Running, alive_in_group, until, watched
from tests.e2e.test_main_job import check_renditions, submit_transcode


async def in_the_middle(client: TandemClient, job_id: str) -> str:
    """Waits until the job is well under way; the node that runs it."""

    async def begun() -> str | None:
        job = await client.job(job_id)
        assert job.state in {JobState.QUEUED, JobState.RUNNING}, f"too late to interrupt it: {job.state}"
        return job.attempts[-1].node if job.progress.percent > 5 else None

    return str(await until("progress", begun))


async def check_books(market: Market, client: TandemClient, job_id: str) -> None:
    """The job is charged once, and what nodes count as earned is what they were granted."""
    job = await client.job(job_id)
    accepted = [attempt for attempt in job.attempts if attempt.state is AttemptState.ACCEPTED]
    assert len(accepted) == 1
    assert job.price.charged == accepted[0].price

    async def settled() -> bool:
        nodes = {node.address: node for node in (await client.nodes()).nodes}
        winner = nodes.get(accepted[0].node)
        return winner is not None and winner.issued >= winner.earned == accepted[0].price

    await until("tickets for the accepted attempt, and for no other", settled)
    for name, address in market.addresses.items():
        due = accepted[0].price if address == accepted[0].node else 0
        await until(f"{name} to count {due} wei", partial(earned_is, market, name, due))


def earned_is(market: Market, name: str, due: int) -> bool:
    return market.status(name)["earned"] == due


async def test_node_dies_in_mid_transcode(market: Market, tmp_path: Path) -> None:
    market.start_orchestrator()
    nodes = {name: market.start_node(name, "--capacity.cpu", "1") for name in ("north", "south")}
    async with watched(market) as client:
        await market.ready(client, 2)
        job = await submit_transcode(client)
        victim = await in_the_middle(client, job.id)
        died = nodes[market.name_of(victim)]
        died.kill()
        await until("its children to be gone", lambda: not alive_in_group(died.process.pid))
        done = await client.wait(job.id)
        await check_renditions(client, done, tmp_path)
        assert [attempt.node for attempt in done.attempts if attempt.state is AttemptState.ACCEPTED] != [victim]
        assert done.attempts[0].state in {AttemptState.EXPIRED, AttemptState.CANCELLED}
        await check_books(market, client, job.id)


async def test_orchestrator_dies_in_mid_job(market: Market, tmp_path: Path) -> None:
    market.lease = 30.0  # a node is back within it, also on a busy machine
    orchestrator = market.start_orchestrator()
    market.start_node("north")
    async with watched(market) as client:
        await market.ready(client, 1)
        job = await submit_transcode(client)
        await in_the_middle(client, job.id)
        orchestrator.kill()
        market.start_orchestrator()
        done = await client.wait(job.id)
        await check_renditions(client, done, tmp_path)
        assert len(done.attempts) == 1, "the node goes on with the attempt that it has"
        await check_books(market, client, job.id)


async def test_node_dies_between_winning_and_redeeming(market: Market, tmp_path: Path) -> None:
    market.start_orchestrator()
    hoarder = market.start_node("north", "--redemption.gas-percent", "1", "--chain.max-fee-per-gas", "0")
    async with watched(market) as client:
        await market.ready(client, 1)
        before = await market.balance("north")
        job = await client.wait((await submit_transcode(client)).id)
        await check_renditions(client, job, tmp_path)
        await check_books(market, client, job.id)
        won = await until("a winner", lambda: won_by(market, "north"))
        assert market.status("north")["redeemed"] == 0
        hoarder.kill()
        again: Running = market.start_node("north")
        await until("its winners to be redeemed", lambda: market.status("north")["redeemed"] == won)
        assert await market.balance("north") == before + won - market.status("north")["gas_spent"]
        await check_books(market, client, job.id)
        assert again.terminate() == 0


def won_by(market: Market, name: str) -> int:
    """Face value of the node's winners that are still to be redeemed, once all its tickets are there."""
    status = market.status(name)
    return int(status["outstanding"]) if status["received"] >= status["earned"] else 0
