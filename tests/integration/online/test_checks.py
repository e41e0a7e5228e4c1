"""Answers that are run again elsewhere: liars are found and get no work, the honest never, and everyone is paid."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from node.ports.execution import ModelRun
from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.core.checks import MARKET, CheckPolicy
from orchestrator.core.online import Replica
from orchestrator.core.records import AttemptRecord, JobRecord, JobSnapshot
from orchestrator.core.scheduling import Obstacle
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.service import checks as service
from orchestrator.service.shards import ShardChecks
from tandem.protocol.errors import ResultRejected
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import ROWS, ArtifactInput, AttemptState, BatchFormat, BatchRequest, BatchWork, JobState
from tandem.protocol.models import ModelInfo, ModelSettings
from tandem.protocol.outputs import BatchOutput, FileResult
from tandem.protocol.rows import Fault, Row, pack_row
from tandem.protocol.tensors import Tensor
from tests.fixtures.node import until
from tests.fixtures.online import Exchange, call_of, exchange, model_info, working_node
from tests.fixtures.onnx_models import weighty
from tests.integration.online.test_online import KEYS, QUICK, Asked, Market, X, Y, market

ALL = CheckPolicy(share=1.0, rate=1000.0)


def x(value: float) -> Tensor:
    return X._replace(data=struct.pack("<f", value))


def double(asked: Asked, off: float = 0.0) -> None:
    (value,) = struct.unpack("<f", asked.inputs[0].data)
    asked.answer(Y._replace(data=struct.pack("<f", 2 * value + off)))


def lie(asked: Asked) -> None:
    double(asked, 1.0)


@asynccontextmanager
async def checked(folder: Path, *replies: Callable[[Asked], None], checks: CheckPolicy = ALL) -> AsyncIterator[Market]:
    """A node for each of these, where the model is ready."""
    async with market(folder, len(replies), QUICK, checks, replicas=len(replies)) as found:
        found.exchange.models.append(found.model)
        for hand, reply in zip(found.hands, replies, strict=True):
            hand.reply = reply
        await until(lambda: len(ready(found)) == len(replies))
        yield found


def ready(found: Market) -> list[Replica]:
    return [each for each in found.exchange.online.replicas.of(found.model.served).values() if each.state == "ready"]


def results(found: Market | Exchange) -> dict[str, int]:
    checks = found.checks if isinstance(found, Exchange) else found.exchange.checks
    samples = next(iter(checks._results.collect())).samples
    return {s.labels["result"]: int(s.value) for s in samples if s.name.endswith("_total")}


async def served(found: Market, count: int) -> None:
    """So many requests, and all their checks."""
    before = sum(results(found).values())
    for number in range(count):
        await found.exchange.online.infer(call_of(found.model, x(number)))
        await until(lambda: not found.exchange.checks._held)
    assert sum(results(found).values()) >= before


async def test_a_liar_is_found_and_gets_no_work(tmp_path: Path) -> None:
    async with checked(tmp_path, lie, double, double) as found:
        nodes, liar = found.exchange.nodes, KEYS[0].address
        await until_suspended(found, liar)
        node = nodes.get(liar)
        assert node is not None
        assert not node.is_payable
        assert node.reliability < 0.8
        reason = node.state().withheld
        assert reason is not None
        assert reason.obstacle is Obstacle.DISTRUSTED
        assert all(nodes.trust(key.address).agreement == 1.0 for key in KEYS[1:])
        assert set(results(found)) <= {"confirmed", "outvoted"}
        await until(lambda: not found.hands[0].loaded)
        before = len(found.hands[0].asked)
        await served(found, 10)
        assert len(found.hands[0].asked) == before


async def until_suspended(found: Market, address: str) -> None:
    async with asyncio.timeout(20):
        while found.exchange.nodes.trust(address).suspended is None:
            await served(found, 1)


async def test_a_suspension_outlives_the_session_and_ends(tmp_path: Path) -> None:
    checks = CheckPolicy(share=1.0, rate=1000.0, suspension=1e6)
    async with checked(tmp_path, lie, double, double, checks=checks) as found:
        nodes, liar = found.exchange.nodes, KEYS[0].address
        await until_suspended(found, liar)
        older = nodes.get(liar)
        assert older is not None
        older.link.close("bye", "enough")
        await until(lambda: nodes.get(liar) not in (None, older))
        await found.exchange.connected(3)
        node = nodes.get(liar)
        assert node is not None
        assert not node.is_payable
        node.trust.until = 0.0
        await until(lambda: node.is_payable)


async def test_the_honest_are_never_struck_and_every_run_is_owed(tmp_path: Path) -> None:
    def near(asked: Asked) -> None:
        double(asked, 5e-5)

    async with checked(tmp_path, double, near, double) as found:
        await served(found, 100)
        here = found.exchange
        assert results(found) == {"confirmed": 100}
        assert sum(tally().requests for tally in found.tallies) == 200
        assert all(here.nodes.trust(key.address).agreement == 1.0 for key in KEYS)
        assert sum(len(hand.asked) for hand in found.hands) == 200
        await here.usage.settle()
        ((own,), (markets,)) = [(await here.store.usage(owner)).records for owner in ("local", MARKET)]
        assert own.requests == markets.requests == 100
        books = await here.store.books("none")
        earned = {account.node: account.earned for account in books.accounts}
        assert books.usage == earned
        assert sum(earned.values()) == own.price + markets.price == 2 * own.price
        await until(lambda: all((tally().in_flight, tally().unsettled) == (0, 0) for tally in found.tallies))


async def test_one_node_alone_is_asked_once(tmp_path: Path) -> None:
    async with checked(tmp_path, lie) as found:
        await served(found, 5)
        assert len(found.hands[0].asked) == 5
        assert results(found) == {}


async def test_of_two_that_differ_nobody_is_struck(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with checked(tmp_path, lie, double) as found:
            await served(found, 5)
            assert results(found) == {"disputed": 5}
            trusts = [found.exchange.nodes.trust(key.address) for key in KEYS[:2]]
            assert [(trust.agreement, trust.confirmed) for trust in trusts] == [(1.0, 0), (1.0, 0)]
    assert sum(record.message == "inference_check" for record in caplog.records) == 5


async def test_the_nodes_that_it_takes_are_made_ready(tmp_path: Path) -> None:
    async with market(tmp_path, 3, QUICK, ALL) as found:
        for hand in found.hands:
            hand.reply = double
        await served(found, 1)
        (first,) = (replica.node for replica in ready(found))
        await until(lambda: len(ready(found)) == 2)  # nobody could confirm the answer
        await served(found, 3)
        assert results(found) == {"confirmed": 3}
        for hand in found.hands:
            hand.reply = lie if hand is found.hands[[key.address for key in KEYS].index(first)] else double
        await served(found, 1)
        await until(lambda: len(ready(found)) == 3)  # nobody could tell which of two was right
        await until_suspended(found, first)
        assert results(found)["disputed"] >= 1


async def test_real_runs_confirm_each_other(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    info = model_info(weighty(1, seed=7), models, ModelSettings(replicas=2), (1,))
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(exchange(tmp_path, QUICK, checks=ALL))
        for key in KEYS[:2]:
            await stack.enter_async_context(working_node(here.origin, tmp_path, models, key))
        await here.connected(2)
        here.models.append(info)
        await until(lambda: sum(each.state == "ready" for each in here.online.replicas.of(info.served).values()) == 2)
        for number in range(20):
            await here.online.infer(call_of(info, x(number)))
        await until(lambda: not here.checks._held)
        assert results(here) == {"confirmed": 20}


async def test_a_model_that_rolls_dice_is_not_checked(tmp_path: Path) -> None:
    async with checked(tmp_path, lie, double) as found:
        found.model = found.model.model_copy(update={"unrepeatable": "it rolls dice"})
        await served(found, 5)
        assert results(found) == {}


async def test_a_second_run_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_SECONDS", 0.05)
    async with checked(tmp_path, double, double, double) as found:
        answer = await found.infer()
        others = [hand for hand, key in zip(found.hands, KEYS, strict=True) if key.address != answer.node]
        await until(lambda: not found.exchange.checks._held)
        for hand in others:
            hand.reply = None
        here = found.exchange.online.replicas.of(found.model.served)
        for key in KEYS:
            here[key.address].seconds = 0.001 if key.address == answer.node else 1.0
        assert (await found.infer()).node == answer.node
        await until(lambda: not found.exchange.checks._held)
        assert results(found) == {"confirmed": 1, "unanswered": 1}
        await until(lambda: all(hand.asked[-1].cancelled for hand in others))
        await until(lambda: not any(replica.outstanding for replica in here.values()))


async def test_the_inputs_are_kept_although_their_memory_is_used_again(tmp_path: Path) -> None:
    async with checked(tmp_path, double, double) as found:
        for number in range(5):
            body = bytearray(struct.pack("<f", number))
            await found.exchange.online.infer(call_of(found.model, X._replace(data=memoryview(body))))
            body[:] = struct.pack("<f", -1.0)
            await until(lambda: not found.exchange.checks._held)
        assert results(found) == {"confirmed": 5}


async def test_no_node_has_more_than_its_limit_although_it_checks(tmp_path: Path) -> None:
    async with checked(tmp_path, double, double) as found, asyncio.TaskGroup() as group:
        here, (first, second) = found.exchange, found.hands
        replica = here.online.replicas.of(found.model.served)[KEYS[1].address]
        second.reply = None
        here.checks._policy = nothing = CheckPolicy(memory=1)
        first.reply = None
        waiting = [group.create_task(found.infer()) for _ in range(2 * replica.limit)]
        await until(lambda: len(first.asked) == len(second.asked) == replica.limit)
        first.reply = double
        for asked in first.asked:
            double(asked)
        await until(lambda: sum(task.done() for task in waiting) == replica.limit)
        here.checks._policy = ALL
        before = len(first.asked)
        await here.online.infer(call_of(found.model, x(7.0)))
        assert len(first.asked) == before + 1
        await until(lambda: replica.reserved)
        here.checks._policy = nothing
        assert len(second.asked) == replica.limit
        waiting += [group.create_task(found.infer()) for _ in range(20)]
        double(second.asked[0])
        await until(lambda: len(second.asked) > replica.limit)
        assert second.asked[-1].inputs == (x(7.0),)
        second.reply = double
        for asked in second.asked[1:]:
            double(asked)
        await asyncio.gather(*waiting)


# --- shards


class Shard:
    """Ten rows and what a node says to them; one row is faulty, on another the model failed."""

    def __init__(self, model: ModelInfo, node: str, off: float) -> None:
        self.rows = [Row(fault=Fault(code="invalid_tensor", detail="not a number"))]
        self.rows += [Row((x(number),)) for number in range(10)]
        values = [struct.pack("<f", 2.0 * number + off) for number in range(10)]
        self.answers = [Row((Y._replace(data=data),)) for data in values]
        self.answers[3] = Row(fault=Fault(code="execution_failed", detail="no"))
        self.model, self.node = model, node

    async def check(self, checks: ShardChecks, disk: ArtifactStore, folder: Path) -> None:
        packed = b"".join(map(pack_row, self.rows))
        answers = folder / "answers"
        answers.write_bytes(b"".join(map(pack_row, self.answers)))
        source, size = await disk.write(_once(packed), 2**20)
        work = BatchWork(
            model=self.model.artifact,
            model_size=self.model.size,
            source=source,
            source_size=size,
            span=(0, size),
            rows=10,
            faulty=1,
            format=BatchFormat.JSONL,
            outputs=self.model.outputs,
            cost_us=1000,
        )
        file = FileResult(name=ROWS, artifact=source, size=answers.stat().st_size)
        output = BatchOutput(file=file, provider="CPUExecutionProvider", failed=(3,))
        request = BatchRequest(
            kind="batch_inference",
            model=self.model.name,
            version=self.model.version,
            input=ArtifactInput(artifact=source),
        )
        job = JobRecord("job_" + 28 * "0", "local", request, JobState.VERIFYING, 1, 0.0)
        ref = AttemptRef(task=f"{job.id}.0", number=1)
        attempt = AttemptRecord(ref, self.node, AttemptState.VERIFYING, 1, 0.0, 0.0, output)
        await checks.check(JobSnapshot(job, (), (attempt,)), attempt, work, output, answers)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynccontextmanager
async def shard_checks(found: Market, folder: Path) -> AsyncIterator[tuple[ShardChecks, ArtifactStore]]:
    async def find(owner: str, name: str, version: str | None) -> ModelInfo:
        assert (owner, name, version) == ("local", found.model.name, "1")
        return found.model

    async with open_artifacts(folder / "disk") as disk:
        yield ShardChecks(found.exchange.checks, disk, find), disk


async def test_a_shard_that_two_nodes_contradict_is_rejected(tmp_path: Path) -> None:
    async with checked(tmp_path, double, double) as found, shard_checks(found, tmp_path) as (checks, disk):
        good, bad = (Shard(found.model, KEYS[2].address, off) for off in (0.0, 1.0))
        await good.check(checks, disk, tmp_path)
        assert results(found) == {"confirmed": 8} or results(found) == {"confirmed": 7}
        with pytest.raises(ResultRejected, match="two agree"):
            await bad.check(checks, disk, tmp_path)
        trust = found.exchange.nodes.trust(KEYS[2].address)
        assert trust.agreement < 1.0
        assert trust.suspended is None  # the first time
        found.hands[1].reply = lambda asked: asked.done(ModelRun((), "CPU", 1, warm=True))
        await bad.check(checks, disk, tmp_path)  # only one node is left that can tell
        assert results(found)["disputed"]


async def test_a_shard_of_the_only_node_is_believed_and_its_model_spread(tmp_path: Path) -> None:
    async with market(tmp_path, 2, QUICK, ALL) as found, shard_checks(found, tmp_path) as (checks, disk):
        shard = Shard(found.model, KEYS[0].address, 1.0)
        await shard.check(checks, disk, tmp_path)
        await until(lambda: found.exchange.online.ready(found.model.served))
        assert [replica.node for replica in ready(found)] == [KEYS[1].address]
        found.hands[1].reply = double
        await shard.check(checks, disk, tmp_path)
        assert results(found)["disputed"]
