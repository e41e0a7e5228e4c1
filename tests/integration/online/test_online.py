"""Requests on line over real sessions: answered, bounded, cancelled, tried again, and never believed."""

import asyncio
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from onnx import helper

from node.core.usage import Tally
from node.ports.execution import Done, ModelFiles, ModelLoaded, ModelRun, WarmModel
from orchestrator.core.checks import CheckPolicy
from orchestrator.core.online import OnlineAnswer, OnlineCall
from orchestrator.service import online
from orchestrator.service.online import OnlinePolicy
from tandem.clock import SystemClock
from tandem.protocol.errors import (
    AttemptLost,
    ChildCrashed,
    DeadlineExceeded,
    InvalidModel,
    Overloaded,
    ResultRejected,
    TandemError,
    TooLarge,
    Unavailable,
)
from tandem.protocol.models import ModelInfo, ModelSettings
from tandem.protocol.signing import SigningKey
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.node import until
from tests.fixtures.online import Exchange, LocalTransfer, call_of, dialling_node, exchange, model_info, working_node
from tests.fixtures.onnx_models import bytes_of, model_of, value, weighty
from tests.fixtures.protocol import SENDER

KEYS = [SigningKey.from_bytes(bytes([number]) * 32) for number in (11, 12, 13)]
X = Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 1.0))
Y = Tensor("y", Datatype.FP32, (1,), struct.pack("<f", 2.0))
QUICK = OnlinePolicy(tick=0.02, catalogue=0.02, grow=0.05)


@dataclass(eq=False)
class Asked:
    inputs: tuple[Tensor, ...]
    done: Done
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def answer(self, *outputs: Tensor) -> None:
        self.done(ModelRun(outputs or (Y,), "CPUExecutionProvider", 10, warm=True))


@dataclass
class Hand:
    """Inference as the test says."""

    asked: list[Asked] = field(default_factory=list)
    loaded: dict[str, ModelLoaded] = field(default_factory=dict)
    error: TandemError | None = None
    reply: Callable[[Asked], None] | None = None
    """Given at once."""

    async def load(
        self,
        files: ModelFiles,
        settings: ModelSettings,  # noqa: ARG002
        *,
        pinned: bool = False,  # noqa: ARG002
    ) -> ModelLoaded:
        if self.error is not None:
            raise self.error
        return self.loaded.setdefault(files.digest, ModelLoaded("CPUExecutionProvider", 1000))

    async def unload(self, digest: str) -> None:
        self.loaded.pop(digest, None)

    def submit(self, digest: str, inputs: tuple[Tensor, ...], outputs: tuple[str, ...], done: Done) -> Asked:  # noqa: ARG002
        self.asked.append(asked := Asked(inputs, done))
        if self.reply is not None:
            asyncio.get_running_loop().call_soon(self.reply, asked)
        return asked

    def warm(self) -> tuple[WarmModel, ...]:
        return tuple(WarmModel(digest, loaded, pinned=False) for digest, loaded in self.loaded.items())

    def listen(self, changed: Callable[[], None]) -> None: ...


@dataclass
class Market:
    exchange: Exchange
    hands: list[Hand]
    model: ModelInfo
    tallies: list[Callable[[], Tally]]
    """What each node counted by itself."""

    async def infer(self, **more: object) -> OnlineAnswer:
        return await self.exchange.online.infer(call_of(self.model, X, **more))

    def call(self, **more: object) -> OnlineCall:
        return call_of(self.model, X, **more)


@asynccontextmanager
async def market(
    folder: Path, nodes: int = 1, policy: OnlinePolicy = QUICK, checks: CheckPolicy | None = None, **settings: object
) -> AsyncIterator[Market]:
    models = folder / "models"
    models.mkdir()
    info = model_info(weighty(1), models, ModelSettings.model_validate(settings), (1,))
    hands, tallies = [Hand() for _ in range(nodes)], list[Callable[[], Tally]]()
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(exchange(folder, policy, checks=checks))
        for hand, key in zip(hands, KEYS, strict=False):
            node = dialling_node(here.origin, folder, hand, LocalTransfer(models), key, SystemClock())  # type: ignore[arg-type]
            usage = (await stack.enter_async_context(node)).usage
            tallies.append(partial(usage._books.tally, SENDER.address))  # type: ignore[attr-defined]
        await here.connected(nodes)
        yield Market(here, hands, info, tallies)


async def all_asked(found: Market, count: int) -> list[Asked]:
    await until(lambda: sum(len(hand.asked) for hand in found.hands) >= count)
    return [asked for hand in found.hands for asked in hand.asked]


async def test_a_cold_model_is_loaded_and_then_warm(tmp_path: Path) -> None:
    async with market(tmp_path) as found:
        found.hands[0].reply = Asked.answer
        first, second = await found.infer(), await found.infer()
        assert (first.warm, second.warm) == (False, True)
        assert first.outputs == (Y,)
        assert first.node == KEYS[0].address
        await until(lambda: [node.offer.models for node in found.exchange.nodes] != [()])
        (node,) = found.exchange.nodes
        assert [warm.model for warm in node.offer.models] == [found.model.served]
        stats = found.exchange.online.stats(found.model.served)
        assert (stats.answered, stats.failures, stats.running, stats.waiting) == (2, {}, 0, 0)
        assert stats.total.count == stats.compute.count == stats.queue.count == 2
        assert node.in_flight == 0
        assert node.unsettled + node.unpaid > 0


async def test_a_client_that_goes_away_stops_the_run_at_once(tmp_path: Path) -> None:
    async with market(tmp_path) as found, asyncio.TaskGroup() as group:
        delays = []
        for number in range(1, 6):
            client = group.create_task(found.infer())
            asked = (await all_asked(found, number))[-1]
            begun = asyncio.get_running_loop().time()
            client.cancel()
            await until(lambda asked=asked: asked.cancelled)  # type: ignore[misc]
            delays.append(asyncio.get_running_loop().time() - begun)
        assert min(delays) < 0.05
        stats = found.exchange.online.stats(found.model.served)
        assert stats.failures == {"cancelled": 5}
        (node,) = found.exchange.nodes
        await until(lambda: node.in_flight == 0)
        assert (stats.running, node.unsettled) == (0, 0)


@pytest.mark.parametrize("size", [1, 2**20])
async def test_an_answer_that_meets_its_cancellation_is_paid_for(tmp_path: Path, size: int) -> None:
    output = Y._replace(shape=(size,), data=bytes(4 * size))
    async with market(tmp_path) as found, asyncio.TaskGroup() as group:
        outputs = (found.model.outputs[0].model_copy(update={"shape": (-1,)}),)
        found.model = found.model.model_copy(update={"outputs": outputs})
        for turns in range(9):
            client = group.create_task(found.infer())
            asked = (await all_asked(found, turns + 1))[-1]
            asked.answer(output)
            for _ in range(turns):
                await asyncio.sleep(0)
            client.cancel()
        (node,), tally = found.exchange.nodes, found.tallies[0]()
        await until(lambda: node.in_flight == 0)
        assert (tally.in_flight, tally.requests) == (0, 9)
        assert tally.unsettled == node.unsettled + node.unpaid > 0
        assert found.exchange.online.stats(found.model.served).answered < 9


async def test_a_deadline_ends_a_request_wherever_it_is_and_whatever_others_have(tmp_path: Path) -> None:
    async with market(tmp_path) as found, asyncio.TaskGroup() as group:
        others = [group.create_task(found.infer(timeout=seconds)) for seconds in (30.0, 20.0)]
        await all_asked(found, 2)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await found.infer(timeout=0.2)
        *asked, late = await all_asked(found, 3)
        await until(lambda: late.cancelled)
        assert not any(each.cancelled for each in asked)
        for client in others:
            client.cancel()


async def test_a_full_queue_says_when_to_come_again_and_priority_goes_first(tmp_path: Path) -> None:
    async with market(tmp_path, policy=OnlinePolicy(queue=3, share=1)) as found, asyncio.TaskGroup() as group:
        online = found.exchange.online
        running = [group.create_task(found.infer())]
        await until(lambda: found.hands[0].asked)
        limit = online.replicas.of(found.model.served)[KEYS[0].address].limit
        running += [group.create_task(found.infer()) for _ in range(limit - 1)]
        await all_asked(found, limit)
        late = Tensor("x", Datatype.FP32, (1,), struct.pack("<f", 9.0))
        waiting = [
            group.create_task(online.infer(call_of(found.model, each, priority=priority)))
            for each, priority in ((X, 0), (X, 0), (late, 5))
        ]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await found.infer()
        assert caught.value.retry_after > 0
        assert online.stats(found.model.served).waiting == 3
        found.hands[0].asked[0].answer()
        asked = await all_asked(found, limit + 1)
        assert asked[-1].inputs == (late,)
        found.hands[0].reply = Asked.answer
        for each in asked[1:]:
            each.answer()
        await asyncio.gather(*running, *waiting)


async def test_a_key_that_floods_with_the_highest_priority_keeps_no_other_waiting(tmp_path: Path) -> None:
    policy = OnlinePolicy(queue=200, queue_bytes=2**25, share=0.5)
    async with market(tmp_path, policy=policy) as found, asyncio.TaskGroup() as group:
        here, hand = found.exchange, found.hands[0]
        await here.online.load(found.model)
        limit = here.online.replicas.of(found.model.served)[KEYS[0].address].limit
        much = Tensor("x", Datatype.FP32, (2**18,), bytes(2**20))
        flood = call_of(found.model, much, priority=127)._replace(owner="flood")
        running = [group.create_task(here.online.infer(flood)) for _ in range(limit + 16)]
        await all_asked(found, limit)
        with pytest.raises(Overloaded, match=r"of one key \(online\.share\)"):
            await here.online.infer(flood)
        others = [group.create_task(found.infer(priority=-127)) for _ in range(5)]
        await asyncio.sleep(0)
        hand.reply = Asked.answer
        for asked in list(hand.asked):
            asked.answer()
        await asyncio.gather(*others)
        assert len(hand.asked) <= limit + 2 * len(others) + limit
        for task in running:
            task.cancel()


async def test_models_that_nobody_asks_for_any_more_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "_MAX_SERVED", 3)
    async with market(tmp_path, nodes=0) as found:
        for cost in range(20):
            with pytest.raises(Unavailable):
                await found.exchange.online.infer(call_of(found.model.model_copy(update={"cost_us": cost + 1}), X))
        await until(lambda: len(found.exchange.online.all_stats()) <= 3)


LIES = [
    (),
    (Y, Y),
    (Y._replace(name="z"),),
    (Y._replace(shape=(2,), data=bytes(8)),),
    (Y._replace(datatype=Datatype.INT32),),
    (Y._replace(data=bytes(8)),),
]


async def test_an_answer_that_is_not_the_models_is_refused_and_asked_for_elsewhere(tmp_path: Path) -> None:
    async with market(tmp_path, nodes=2, replicas=2) as found:
        liar, honest = found.hands
        found.exchange.models.append(found.model)
        await until(lambda: liar.loaded and honest.loaded)
        honest.reply = Asked.answer
        for outputs in LIES:
            liar.reply = lambda asked, outputs=outputs: asked.done(ModelRun(outputs, "CPU", 1, warm=True))
            answers = [await found.infer() for _ in range(2)]
            assert {answer.node for answer in answers} == {KEYS[1].address}
        honest.reply = liar.reply
        with pytest.raises(ResultRejected, match="expected 4 bytes"):
            await found.infer()


async def test_a_straggler_is_overtaken_where_that_is_asked_for(tmp_path: Path) -> None:
    async with market(tmp_path, nodes=2, replicas=2, hedge=True) as found:
        found.exchange.models.append(found.model)
        await until(lambda: all(hand.loaded for hand in found.hands))
        for hand in found.hands:
            hand.reply = Asked.answer
        while not all(hand.asked for hand in found.hands):
            await found.infer()
        slow = found.hands[0]
        slow.reply = None
        while not any(asked.cancelled for asked in slow.asked):
            assert (await found.infer()).node == KEYS[1].address
            await asyncio.sleep(0)
        assert found.exchange.online.stats(found.model.served).hedged >= 1


async def test_a_model_that_no_node_can_load_is_said_to_whoever_asks(tmp_path: Path) -> None:
    async with market(tmp_path, nodes=2) as found:
        for hand in found.hands:
            hand.error = InvalidModel("expected a model")
        with pytest.raises(InvalidModel, match="expected a model"):
            await found.infer()
        with pytest.raises(InvalidModel):
            await found.exchange.online.load(found.model)


async def test_what_one_node_cannot_load_another_may(tmp_path: Path) -> None:
    async with market(tmp_path, nodes=2) as found:
        for hand in found.hands:
            hand.reply = Asked.answer
            hand.error = ChildCrashed("expected a worker")
        found.hands[1].error = None
        assert (await found.infer()).node == KEYS[1].address


async def test_without_a_node_there_is_no_waiting(tmp_path: Path) -> None:
    async with market(tmp_path, nodes=0) as found:
        with pytest.raises(Unavailable, match="none is connected"):
            await found.infer()


async def test_what_fits_no_message_is_refused_although_it_waited_for_its_model(tmp_path: Path) -> None:
    async with market(tmp_path) as found:
        found.hands[0].reply = Asked.answer
        much = Tensor("x", Datatype.FP32, (2**24 + 1,), bytes(2**26 + 4))
        with pytest.raises(TooLarge, match="send less"):
            await found.exchange.online.infer(call_of(found.model, much))
        assert (await found.infer()).outputs == (Y,)


async def test_models_come_and_go_with_demand(tmp_path: Path) -> None:
    policy = OnlinePolicy(tick=0.01, catalogue=0.01, grow=0.03, idle=0.1)
    async with market(tmp_path, nodes=2, policy=policy) as found, asyncio.TaskGroup() as group:
        running = [group.create_task(found.infer()) for _ in range(20)]
        await until(lambda: all(hand.loaded for hand in found.hands))  # more wait than one takes
        for hand in found.hands:
            hand.reply = Asked.answer
            for asked in hand.asked:
                asked.answer()
        await asyncio.gather(*running)
        pinned = found.model.model_copy(update={"settings": ModelSettings(replicas=1)})
        found.exchange.models.append(pinned)
        await until(lambda: sum(bool(hand.loaded) for hand in found.hands) == 1)
        found.exchange.models.clear()
        await until(lambda: not any(hand.loaded for hand in found.hands))


async def test_a_node_that_hangs_up_fails_its_requests_as_retryable(tmp_path: Path) -> None:
    async with market(tmp_path) as found:

        async def hang_up() -> Asked:
            (asked,) = await all_asked(found, 1)
            (node,) = found.exchange.nodes
            node.link.close("bye", "enough")
            return asked

        async with asyncio.TaskGroup() as group:
            hanging_up = group.create_task(hang_up())
            with pytest.raises(AttemptLost):
                await found.infer()
        await until(lambda: hanging_up.result().cancelled)


# --- with real workers


async def test_the_answer_is_right_and_a_killed_worker_costs_a_retry(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    info = model_info(weighty(1, seed=7), models, None, (1,))
    async with exchange(tmp_path) as here, working_node(here.origin, tmp_path, models, KEYS[0]) as (_, worker):
        await here.connected()
        first = await here.online.infer(call_of(info, X))
        (biggest,) = struct.unpack("<f", first.outputs[0].data)
        assert 1.99 < biggest <= 2.0

        async def kill() -> None:
            await until(lambda: here.online.stats(info.served).answered > 3)
            for seat in worker.workers.seats:
                if seat.worker is not None and seat.worker.pid is not None:
                    os.kill(seat.worker.pid, signal.SIGKILL)

        requests = [here.online.infer(call_of(info, X)) for _ in range(60)]
        _, *outcomes = await asyncio.gather(kill(), *requests, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(error, TandemError) and error.retryable for error in failed)
        again = await here.online.infer(call_of(info, X))
        assert again.outputs == first.outputs


async def test_a_killed_node_costs_nobody_an_answer_while_another_is_there(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    info = model_info(weighty(1, seed=7), models, ModelSettings(replicas=2), (1,))
    async with exchange(tmp_path, QUICK) as here:
        here.models.append(info)
        processes = []
        for key in KEYS[:2]:
            arguments = (here.origin, str(tmp_path), str(models), key.secret.hex())
            processes.append(
                await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.fixtures.online", *arguments)
            )
        try:
            await here.connected(2)
            await until(
                lambda: sum(replica.state == "ready" for replica in here.online.replicas.of(info.served).values()) == 2
            )
            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(here.online.infer(call_of(info, X))) for _ in range(100)]
                await asyncio.wait(clients, return_when=asyncio.FIRST_COMPLETED)
                assert here.online.replicas.of(info.served)[KEYS[0].address].outstanding
                processes[0].kill()
                answers = await asyncio.gather(*clients)
            assert len({answer.outputs for answer in answers}) == 1
            assert here.online.stats(info.served).retried
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def test_two_models_of_one_file_are_each_served_as_they_ask(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "double", [value("x", shape=["n"])], [value("y", shape=["n"])]
    )
    single = model_info(bytes_of(model_of(graph)), models)
    together = ModelSettings(max_batch=4, batch_window_us=500_000)
    batched = single.model_copy(update={"owner": "ann", "settings": together})
    async with exchange(tmp_path) as here, working_node(here.origin, tmp_path, models, KEYS[0]):
        await here.connected()
        for model in (single, batched):
            await here.online.load(model)
            await asyncio.gather(*(here.online.infer(call_of(model, X)) for _ in range(4)))
        assert [here.online.stats(each.served).batches for each in (single, batched)] == [{1: 4}, {4: 4}]
        await here.online.unload(batched.served)
        assert here.online.ready(single.served)
        assert (await here.online.infer(call_of(single, X))).warm
