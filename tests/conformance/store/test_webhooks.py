"""Webhooks and their outbox."""

from dataclasses import replace

import pytest

from orchestrator.core.records import DeliveryRecord, Failure, JobChanges, JobSnapshot, Submission, WebhookRecord
from orchestrator.ports.store import Store, WebhookDecision
from tandem.protocol.errors import InvalidTransition, NotFound
from tandem.protocol.jobs import JobState
from tandem.protocol.webhooks import DeliveryStatus
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import START, accept, begin, cancel, decided, deliver, inference, nothing, ref_of
from tests.fixtures.clock import ManualClock

URL, OTHER = "https://hook.example/a", "https://other.example/b"
WEBHOOK = WebhookRecord("local", URL, "whsec_1", START)


def told(number: int = 1, url: str = URL, owner: str = "local") -> Submission:
    return inference(number, owner=owner, webhook=url)


def put(webhook: WebhookRecord, expected: WebhookRecord | None = None) -> WebhookDecision:
    def decide(known: WebhookRecord | None, _now: float) -> WebhookRecord:
        assert known == expected
        return webhook

    return decide


async def states(store: Store, owner: str = "local") -> list[tuple[JobState, DeliveryStatus]]:
    page = await store.deliveries(owner)
    return [(each.state, each.status) for each in reversed(page.deliveries)]


def over(delivery: DeliveryRecord, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> DeliveryRecord:
    return replace(delivery, status=status, tries=1, delivered_at=START if status is DeliveryStatus.DELIVERED else None)


async def test_a_webhook_is_kept(open_again: Open) -> None:
    async with open_again() as store:
        assert await store.webhook("local") is None
        assert await store.decide_webhook("local", put(WEBHOOK)) == WEBHOOK
        changed = replace(WEBHOOK, url=None, secret="whsec_2", previous="whsec_1", previous_until=START + 5)
        assert await store.decide_webhook("local", put(changed, WEBHOOK)) == changed
    async with open_again() as store:
        assert await store.webhook("local") == changed
        assert await store.webhook("somebody") is None


async def test_each_state_is_in_the_outbox_with_the_state_itself(open_again: Open) -> None:
    job = told()
    ref = ref_of(job)
    async with open_again() as store:
        await store.submit(job)
        await decided(store, job, begin(ref), nothing, deliver(ref), accept(ref))
        await store.submit(inference(2))
    async with open_again() as store:
        found = await states(store)
        assert [state for state, _ in found] == ["queued", "running", "verifying", "succeeded"]
        assert [status for _, status in found] == ["pending", "waiting", "waiting", "waiting"]
        (due,) = await store.due_deliveries(10)
        assert (due.job, due.number, due.url, due.owner) == (job.job.id, 1, URL, "local")


async def test_what_is_not_written_is_not_told(store: Store) -> None:
    job = told()
    await store.submit(job)
    await decided(store, job, begin(ref_of(job)), cancel)
    before = await states(store)
    with pytest.raises(InvalidTransition):
        await decided(store, job, accept(ref_of(job)))
    assert await states(store) == before


async def test_one_of_a_job_is_due_after_the_other(store: Store, clock: ManualClock) -> None:
    job = told()
    await store.submit(job)
    await decided(store, job, begin(ref_of(job)))
    (first,) = await store.due_deliveries(10)
    await store.save_delivery(replace(first, tries=1, not_before=clock.now() + 5, error="HTTP 500"))
    assert await store.due_deliveries(10) == []
    assert await store.next_delivery_at() == clock.now() + 5
    clock.advance(5)
    (again,) = await store.due_deliveries(10)
    assert (again.number, again.tries, again.error) == (1, 1, "HTTP 500")
    await store.save_delivery(over(again))
    (second,) = await store.due_deliveries(10)
    assert second.number == 2
    await store.save_delivery(over(second, DeliveryStatus.FAILED))
    assert await store.due_deliveries(10) == []
    assert await store.next_delivery_at() is None
    await decided(store, job, cancel)
    assert [each.number for each in await store.due_deliveries(10)] == [3]


async def test_a_dead_endpoint_can_be_passed_over(store: Store) -> None:
    for number in range(3):
        await store.submit(told(number))
    await store.submit(told(3, OTHER))
    assert len(await store.due_deliveries(10)) == 4
    assert len(await store.due_deliveries(2)) == 2
    (other,) = await store.due_deliveries(10, without=["https://hook.example:443"])
    assert other.url == OTHER


async def test_a_webhook_that_is_gone_is_told_no_more(store: Store) -> None:
    await store.decide_webhook("local", put(WEBHOOK))
    await store.submit(told(1))
    await store.submit(told(2, OTHER))
    await store.submit(told(3, owner="ann"))
    await decided(store, told(1), begin(ref_of(told(1))))
    first = next(each for each in await store.due_deliveries(10) if each.job == told(1).job.id)
    await store.end_webhook(replace(first, status=DeliveryStatus.FAILED, tries=1, error="gone"))
    left = await store.due_deliveries(10)
    assert sorted((each.owner, each.url) for each in left) == [("ann", URL), ("local", OTHER)]
    ended = (await store.deliveries("local", status=DeliveryStatus.FAILED)).deliveries
    assert [(each.number, each.tries, each.error) for each in ended] == [(2, 0, "gone"), (1, 1, "gone")]
    await store.save_delivery(replace(first, tries=2, not_before=START + 9))
    assert await store.next_delivery_at() is None
    await decided(store, told(1), cancel)
    assert len((await store.deliveries("local", job=told(1).job.id)).deliveries) == 2
    assert await store.webhook("local") == replace(WEBHOOK, url=None)


async def test_an_event_is_sent_anew_in_its_turn(store: Store, clock: ManualClock) -> None:
    job = told()
    await store.submit(job)
    (first,) = await store.due_deliveries(10)
    await store.save_delivery(over(first, DeliveryStatus.FAILED))
    await decided(store, job, begin(ref_of(job)))
    clock.advance(9)
    again = await store.redeliver("local", job.job.id, 1)
    assert (again.status, again.tries, again.since, again.error) == ("waiting", 0, clock.now(), None)
    (second,) = await store.due_deliveries(10)
    assert second.number == 2
    await store.save_delivery(over(second))
    assert [each.number for each in await store.due_deliveries(10)] == [1]
    assert (await store.redeliver("local", job.job.id, 1)).status is DeliveryStatus.PENDING
    for owner, number in (("local", 3), ("ann", 1)):
        with pytest.raises(NotFound):
            await store.redeliver(owner, job.job.id, number)


async def test_deliveries_come_in_pages(store: Store) -> None:
    for number in (1, 2):
        await store.submit(told(number))
        await decided(store, told(number), begin(ref_of(told(number))), cancel)
    found: list[DeliveryRecord] = []
    after = None
    while True:
        page = await store.deliveries("local", after=after, limit=4)
        found += page.deliveries
        after = page.next_cursor
        if after is None:
            break
    assert [(each.job, each.number) for each in found] == [
        (told(number).job.id, event) for number in (2, 1) for event in (3, 2, 1)
    ]
    assert len((await store.deliveries("local", job=told(1).job.id)).deliveries) == 3
    assert (await store.deliveries("ann")).deliveries == ()
    with pytest.raises(ValueError, match="id of an event"):
        await store.deliveries("local", after="x")


async def test_events_are_forgotten_with_time_once_they_are_over(store: Store, clock: ManualClock) -> None:
    job = told()
    await store.submit(job)
    await decided(store, job, begin(ref_of(job)), cancel)
    (first,) = await store.due_deliveries(10)
    await store.save_delivery(over(first))
    clock.advance(60)
    assert await store.prune(61) == 0
    assert await store.prune(60) == 1
    assert await states(store) == [
        (JobState.RUNNING, DeliveryStatus.PENDING),
        (JobState.CANCELLED, DeliveryStatus.WAITING),
    ]
    for _ in range(2):
        (due,) = await store.due_deliveries(10)
        await store.save_delivery(over(due, DeliveryStatus.FAILED))
    assert await store.prune(60) == 2
    assert await states(store) == []


async def test_the_events_of_a_job_that_is_tried_again_go_on_counting(store: Store, clock: ManualClock) -> None:
    job = told()
    await store.submit(job)
    await decided(store, job, begin(ref_of(job)), end_badly)
    for _ in range(3):
        (due,) = await store.due_deliveries(10)
        await store.save_delivery(over(due))
    clock.advance(60)
    assert await store.prune(60) == 2
    await decided(store, job, go_on)
    assert [each.number for each in (await store.deliveries("local")).deliveries] == [4, 3]


def end_badly(snapshot: JobSnapshot, now: float) -> JobChanges:
    failure = Failure("execution_failed", "no", retryable=False)
    return JobChanges(job=replace(snapshot.job, state=JobState.FAILED, failure=failure, finished_at=now))


def go_on(snapshot: JobSnapshot, _now: float) -> JobChanges:
    return JobChanges(job=replace(snapshot.job, state=JobState.QUEUED, failure=None, finished_at=None))
