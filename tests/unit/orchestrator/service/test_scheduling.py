"""Handing tasks to nodes: what is sent, and to which session."""

from urllib.parse import parse_qs, urlsplit

from orchestrator.core.blame import RetryPolicy
from orchestrator.core.lifecycle import Accepted, Event, Finished
from orchestrator.core.records import JobChanges, JobRecord, Submission, TaskRecord
from orchestrator.service.events import JobEvents
from orchestrator.service.lifecycle import Bells, Lifecycle
from orchestrator.service.scheduling import Scheduler, Timeouts
from orchestrator.web.signing import UrlSigner
from tandem.protocol.ids import job_id, task_id
from tandem.protocol.jobs import ArtifactInput, AttemptState, JobState, TaskState, TranscodeRequest
from tandem.protocol.messages import Assign, Cancel, Verdict
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tandem.waiting import Bell
from tests.fixtures.protocol import ORIGIN, SHA, STRANGER, media, transcode_work
from tests.unit.orchestrator.service.conftest import Market

TIMEOUTS = Timeouts(lease=30, start_to_finish_base=100, start_to_finish_factor=10)
HOUR_US = 3600 * 10**6


class Reconnecting(Lifecycle):
    """While the first assignment is written, the node dials again."""

    market: Market

    async def apply(self, job: str, event: Event) -> JobChanges:
        changes = await super().apply(job, event)
        self.market.connect()
        return changes


def lifecycle_of(market: Market, kind: type[Lifecycle] = Lifecycle) -> Lifecycle:
    return kind(market.store, market.nodes, JobEvents(), market.tracker, RetryPolicy(), Bells())


def scheduler_of(market: Market, lifecycle: Lifecycle) -> Scheduler:
    signer = UrlSigner(bytes(32), ORIGIN, market.clock)
    return Scheduler(market.store, market.nodes, lifecycle, market.tracker, signer, Bell(market.clock), TIMEOUTS)


async def submit(market: Market, number: int, duration_us: int = HOUR_US) -> str:
    await market.store.add_artifact(SHA, 1000, "video/mp4")
    job, request = (
        job_id(market.clock.now(), bytes([number] * 8)),
        TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SHA)),
    )
    work = transcode_work(media().model_copy(update={"duration_us": duration_us}))
    task = TaskRecord(id=task_id(job, 0), work=work, state=TaskState.WAITING, price=10**9)
    record = JobRecord(job, "local", request, JobState.QUEUED, price=10**9, created_at=market.clock.now())
    return await market.store.submit(Submission(record, (task,), artifacts=(SHA,)))


async def test_urls_are_good_for_as_long_as_the_attempt_may_take(market: Market) -> None:
    await submit(market, 1, duration_us=12 * HOUR_US)
    node, link = market.connect()
    node.has_terms = True
    assert await scheduler_of(market, lifecycle_of(market)).place() == 1
    (assign,) = link.sent
    assert isinstance(assign, Assign)
    for url in (assign.source_url, *assign.upload_urls.values()):
        (expires,) = parse_qs(urlsplit(url).query)["expires"]
        assert int(expires) >= market.clock.now() + assign.start_to_finish


async def test_a_node_that_dials_again_meanwhile_gets_nothing_before_its_welcome(market: Market) -> None:
    first, second = await submit(market, 1), await submit(market, 2)
    node, _ = market.connect()
    node.has_terms = True
    lifecycle = lifecycle_of(market, Reconnecting)
    assert isinstance(lifecycle, Reconnecting)
    lifecycle.market = market
    assert await scheduler_of(market, lifecycle).place() == 0
    newer = market.nodes.get(node.address)
    assert newer is not None
    assert newer.loads == {}
    snapshots = [await market.store.job(job) for job in (first, second)]
    assert [snapshot.job.state for snapshot in snapshots] == [JobState.QUEUED, JobState.QUEUED]
    assert {attempt.state for snapshot in snapshots for attempt in snapshot.attempts} == {AttemptState.RETURNED}


async def test_an_attempt_that_lags_is_begun_beside_and_its_node_paid_for_what_it_showed(market: Market) -> None:
    job = await submit(market, 1, duration_us=2_000_000)
    lagging, slow = market.connect()
    lagging.has_terms = True
    lifecycle = lifecycle_of(market)
    scheduler = scheduler_of(market, lifecycle)
    assert await scheduler.place() == 1
    (first,) = lagging.loads
    assert await scheduler.double() == 0
    market.clock.advance(30)
    market.tracker.said(first, 200, market.clock.now())
    other, fast = market.connect(STRANGER.address)
    assert await scheduler.double() == 0, "no terms yet"
    other.has_terms = True
    assert await scheduler.double() == 1
    assert await scheduler.double() == 0, "two attempts are the most"
    (second,) = other.loads
    assert (second.task, second.number) == (first.task, 2)
    output = TranscodeOutput(files=(FileResult(name="720p", artifact=SHA, size=1),))
    await lifecycle.apply(job, Finished(second, other.address, output))
    await lifecycle.apply(job, Accepted(second))
    cancel = slow.sent[-1]
    price = (await market.store.job(job)).attempts[0].price
    assert isinstance(cancel, Cancel)
    assert (cancel.ref, cancel.price) == (first, price * 200 // 1000)
    assert isinstance(fast.sent[-1], Verdict)
    assert fast.sent[-1].price == price
    assert (lagging.loads, other.loads) == ({}, {})
    assert (await market.store.account(lagging.address)).earned == lagging.unpaid == price * 200 // 1000
    late = Finished(first, lagging.address, output)
    assert await lifecycle.report(lagging.address, first, late) is None
    verdict = slow.sent[-1]
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.price) == (False, price * 200 // 1000)
    assert (await market.store.account(lagging.address)).earned == price * 200 // 1000


async def test_a_node_that_comes_back_hears_what_its_cancelled_attempt_earned(market: Market) -> None:
    job = await submit(market, 1, duration_us=2_000_000)
    lagging, _ = market.connect()
    lagging.has_terms = True
    lifecycle = lifecycle_of(market)
    scheduler = scheduler_of(market, lifecycle)
    await scheduler.place()
    (first,) = lagging.loads
    market.clock.advance(30)
    market.tracker.said(first, 200, market.clock.now())
    other, _ = market.connect(STRANGER.address)
    other.has_terms = True
    await scheduler.double()
    (second,) = other.loads
    output = TranscodeOutput(files=(FileResult(name="720p", artifact=SHA, size=1),))
    await lifecycle.apply(job, Finished(second, other.address, output))
    await lifecycle.apply(job, Accepted(second))
    _, again = market.connect()
    for ref in (first, second):
        await lifecycle.remind(lagging.address, ref)
    price = (await market.store.job(job)).attempts[0].earned
    assert [(message.ref, message.price) for message in again.sent if isinstance(message, Cancel)] == [(first, price)]
    assert len(again.sent) == 1
