import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.ports.execution import ModelFiles
from node.service.attempts import Attempts, Executors
from node.service.books import Books
from node.service.link import Link
from tandem.protocol.codec import Envelope, Frame, decode
from tandem.protocol.errors import ExecutionFailed
from tandem.protocol.messages import (
    Cancel,
    Failed,
    Finished,
    HeldAttempt,
    Message,
    OfferUpdate,
    Progress,
    Verdict,
)
from tandem.protocol.models import ModelFile
from tandem.protocol.outputs import InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor
from tandem.waiting import Bell
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import (
    DOMAIN,
    INFERENCE,
    NODE,
    OFFER,
    PRICE,
    SENDER,
    TENSOR,
    ScriptedExecutors,
    inference,
    ref,
    transcode,
    until,
)

BIG = Tensor(name="y", datatype=Datatype.UINT8, shape=(2**26,), data=bytes(2**26))


class Node:
    """The attempts of a node, and what they say."""

    def __init__(self, store: SqliteTicketStore, clock: ManualClock, folder: Path) -> None:
        self.clock = clock
        self.work = ScriptedExecutors()
        self.queue: asyncio.Queue[Frame] = asyncio.Queue()
        self.link = Link()
        self.link.attach(self.queue)
        self.books = Books(store, Bell(clock))
        executors = Executors(self.work, self.work, self.work, folder)
        self.attempts = Attempts(OFFER, executors, self.books, self.link, clock)

    async def said(self) -> Message:
        return (await self.envelope()).message

    async def envelope(self) -> Envelope:
        async with asyncio.timeout(5):
            return decode(await self.queue.get())

    async def hold(self, number: int = 1) -> None:
        """Begins an attempt that waits to be released."""
        self.work.release.clear()
        self.work.begun.clear()
        self.attempts.assign(SENDER.address, inference(number), (TENSOR,))
        await self.work.begun.wait()


@pytest.fixture
async def node(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    async with running(tmp_path, clock) as node:
        yield node


@asynccontextmanager
async def running(folder: Path, clock: ManualClock) -> AsyncIterator[Node]:
    async with SqliteTicketStore(folder / "tickets.db", NODE.address, DOMAIN) as store:
        node = Node(store, clock, folder)
        await node.books.open(SENDER.address)
        async with node.attempts:
            yield node
            node.attempts.drop(node.attempts.running())


async def test_an_inference_is_run_and_its_outcome_held(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    assert await node.envelope() == Envelope(
        Finished(ref=ref(), output=InferenceOutput(outputs=(TENSOR.meta,), provider="CPUExecutionProvider")), (TENSOR,)
    )
    assert node.attempts.held() == (HeldAttempt(ref=ref(), finished=True),)
    assert node.attempts.running() == ()


async def test_external_data_of_a_model_are_fetched_with_it(node: Node) -> None:
    files = tuple(ModelFile(name=name, artifact="sha256:" + "3" * 64, size=4) for name in ("a", "data/b"))
    work = INFERENCE.model_copy(update={"files": files})
    node.attempts.assign(SENDER.address, inference(work=work, file_urls=("http://o/1", "http://o/2")), (TENSOR,))
    assert isinstance(await node.said(), Finished)
    paths = {"a": Path("/nowhere/1"), "data/b": Path("/nowhere/2")}
    assert node.work.ran == [ModelFiles(work.digest, Path("/nowhere/model"), paths)]


async def test_a_transcode_uploads_each_rendition_and_leaves_nothing_behind(node: Node, tmp_path: Path) -> None:
    node.attempts.assign(SENDER.address, transcode(), ())
    progress = await node.said()
    assert isinstance(progress, Progress)
    assert (progress.permille, progress.remaining) == (100, 9.0)
    finished = await node.said()
    assert isinstance(finished, Finished)
    assert isinstance(finished.output, TranscodeOutput)
    assert [(each.name, each.size) for each in finished.output.files] == [("240p", 5)]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


async def test_a_foreseen_end_out_of_all_bounds_can_be_said(node: Node) -> None:
    node.work.reports = [(1, 1e12)]
    node.attempts.assign(SENDER.address, transcode(), ())
    progress = await node.said()
    assert isinstance(progress, Progress)
    assert progress.remaining == 10**7


async def test_progress_is_said_once_a_second(node: Node) -> None:
    node.work.release.clear()
    node.attempts.assign(SENDER.address, transcode(), ())
    await node.work.begun.wait()
    assert node.queue.qsize() == 1


async def test_a_failure_is_an_outcome(node: Node) -> None:
    node.work.error = ExecutionFailed("no picture")
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    assert await node.said() == Failed(ref=ref(), code="execution_failed", detail="no picture", retryable=False)
    assert node.attempts.held() == (HeldAttempt(ref=ref(), finished=True),)


async def test_a_job_that_meets_a_bug_does_not_end_the_node(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.work.error = ZeroDivisionError("a detail")
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("unavailable", True)
    assert "ZeroDivisionError" in failed.detail
    assert "a detail" in caplog.text
    node.work.error = None
    node.attempts.assign(SENDER.address, inference(2), (TENSOR,))
    assert isinstance(await node.said(), Finished)


async def test_an_attempt_has_its_time(node: Node) -> None:
    node.work.release.clear()
    node.attempts.assign(SENDER.address, inference(start_to_finish=0.0), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("attempt_timeout", True)


async def test_outputs_that_fit_no_message_fail(node: Node) -> None:
    node.work.outputs = (BIG,)
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert failed.code == "too_large"


async def test_what_does_not_fit_is_refused_and_not_held(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(price=1), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("unavailable", True)
    assert node.attempts.held() == ()


async def test_unjudged_work_counts_as_exposure(node: Node) -> None:
    for number in range(1, 11):
        node.attempts.assign(SENDER.address, inference(number), (TENSOR,))
        assert isinstance(await node.said(), Finished)
    node.attempts.assign(SENDER.address, inference(11), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert failed.code == "exposure_exceeded"


async def test_an_accepted_attempt_is_earned_once_and_forgotten(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    await node.said()
    for _ in range(2):
        await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=True))
    assert node.books.balance.earned == PRICE
    assert node.attempts.held() == ()


async def test_an_attempt_that_an_earlier_process_finished_earns_what_the_verdict_says(node: Node) -> None:
    await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=False))
    for _ in range(2):
        await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=True, price=PRICE))
    assert node.books.balance.earned == PRICE


async def test_what_was_shown_of_a_cancelled_attempt_is_earned_once(node: Node) -> None:
    await node.hold()
    await node.attempts.cancelled(SENDER.address, Cancel(ref=ref(), price=3, reason="another was first"))
    await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=False, price=3))
    assert node.books.balance.earned == 3
    assert node.attempts.held() == ()


async def test_an_attempt_that_is_held_earns_the_price_it_was_taken_for(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    await node.said()
    await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=True, price=PRICE - 1))
    assert node.books.balance.earned == PRICE


async def test_a_rejected_attempt_earns_nothing(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    await node.said()
    await node.attempts.judged(
        SENDER.address, Verdict(ref=ref(), accepted=False, code="result_rejected", detail="too dark")
    )
    assert node.books.balance.earned == 0
    assert node.attempts.held() == ()


async def test_an_attempt_that_is_assigned_twice_runs_once(node: Node) -> None:
    await node.hold()
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    node.work.release.set()
    first = await node.said()
    assert node.queue.empty()
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    assert await node.said() == first


async def test_a_cancelled_attempt_stops_without_a_word(node: Node) -> None:
    await node.hold()
    node.attempts.drop([ref(), ref(9)])
    assert node.attempts.held() == ()
    await asyncio.sleep(0)
    assert (node.work.stopped, node.queue.qsize()) == (1, 0)


async def test_a_lost_lease_stops_what_runs_and_leaves_what_has_finished(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(1), (TENSOR,))
    await node.said()
    await node.hold(2)
    node.attempts.lost([ref(1), ref(2), ref(3)])
    assert node.attempts.held() == (HeldAttempt(ref=ref(1), finished=True),)


async def test_room_is_free_only_when_the_execution_is_gone(node: Node) -> None:
    for number in range(1, 9):
        await node.hold(number)
    node.attempts.drop([ref(1)])
    node.attempts.assign(SENDER.address, inference(9), (TENSOR,))
    failed = await node.said()
    assert isinstance(failed, Failed)
    assert failed.code == "no_capacity"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    node.attempts.assign(SENDER.address, inference(10), (TENSOR,))
    assert ref(10) in node.attempts.running()


async def test_after_a_drop_outcomes_are_said_again_and_the_rest_forgotten(node: Node) -> None:
    for number in (1, 2):
        node.attempts.assign(SENDER.address, inference(number), (TENSOR,))
        await node.said()
    await node.hold(3)
    await node.hold(4)
    node.attempts.resume([ref(1), ref(3)])
    finished = await node.said()
    assert isinstance(finished, Finished)
    assert finished.ref == ref(1)
    assert {each.ref for each in node.attempts.held()} == {ref(1), ref(3)}


async def test_draining_lets_work_finish_and_stays_for_the_verdict(node: Node) -> None:
    await node.hold()
    async with asyncio.TaskGroup() as group:
        draining = group.create_task(node.attempts.drain(60))
        update = await node.said()
        assert isinstance(update, OfferUpdate)
        assert update.offer.draining
        node.attempts.assign(SENDER.address, inference(2), (TENSOR,))
        refused = await node.said()
        assert isinstance(refused, Failed)
        assert refused.code == "attempt_returned"
        node.work.release.set()
        assert isinstance(await node.said(), Finished)
        assert not draining.done()
        await node.attempts.judged(SENDER.address, Verdict(ref=ref(), accepted=True))
    assert node.books.balance.earned == PRICE


async def test_draining_hands_back_what_does_not_finish(node: Node) -> None:
    await node.hold()
    async with asyncio.TaskGroup() as group:
        group.create_task(node.attempts.drain(60))
        await node.said()
        await until(lambda: node.clock._sleepers)
        node.clock.advance(60)
        failed = await node.said()
        assert isinstance(failed, Failed)
        assert (failed.code, failed.retryable) == ("attempt_returned", True)
        await until(lambda: node.clock._sleepers)
        node.clock.advance(5)
    assert node.work.stopped == 1


async def test_draining_without_a_session_waits_for_no_verdict(node: Node) -> None:
    node.attempts.assign(SENDER.address, inference(), (TENSOR,))
    await node.said()
    node.link.detach(node.queue)
    await node.attempts.drain(60)
