"""What is ready, what is running, and whose lease has run out."""

from orchestrator.core.blame import failed_on
from orchestrator.ports.store import Store
from tandem.protocol.jobs import AttemptState
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import (
    LABELS,
    NODE,
    OTHER,
    START,
    begin,
    cancel,
    decided,
    deliver,
    fail,
    inference,
    ref_of,
)
from tests.fixtures.clock import ManualClock


async def _running(store: Store, count: int = 1, node: str = NODE, lease: float = 30) -> None:
    for number in range(count):
        job = inference(number)
        await store.submit(job)
        await decided(store, job, begin(ref_of(job), node, lease=lease))


async def test_waiting_tasks_come_oldest_first(store: Store) -> None:
    for number in (2, 0, 1):
        await store.submit(inference(number, tasks=11))
    found = [ready.task.id for ready in await store.ready(100)]
    assert found == [task.id for number in range(3) for task in inference(number, tasks=11).tasks]
    assert [ready.task.id for ready in await store.ready(2)] == found[:2]
    assert [ready.task.id for ready in await store.ready(100, after=found[1])] == found[2:]


async def test_only_waiting_tasks_are_ready(store: Store) -> None:
    await _running(store)
    await store.submit(inference(1))
    await decided(store, inference(1), cancel)
    assert await store.ready(10) == []


async def test_a_task_backs_off_until_its_time(store: Store, clock: ManualClock) -> None:
    await _running(store)
    assert await store.next_ready_at() is None
    await decided(store, inference(), fail(ref_of(inference()), backoff=10))
    assert await store.ready(10) == []
    assert await store.next_ready_at() == START + 10
    clock.advance(10)
    assert [ready.task.id for ready in await store.ready(10)] == [inference().tasks[0].id]
    assert await store.next_ready_at() is None


async def test_a_ready_task_names_the_nodes_that_did_not_do_it(store: Store) -> None:
    job = inference()
    await store.submit(job)
    ends = [
        ("late", AttemptState.EXPIRED),
        ("busy", AttemptState.RETURNED),
        ("broken", AttemptState.FAILED),
        ("late", AttemptState.FAILED),
    ]
    for number, (node, state) in enumerate(ends, start=1):
        await decided(store, job, begin(ref_of(job, number), node), fail(ref_of(job, number), state))
    (ready,) = await store.ready(10)
    assert ready.failed_on == failed_on((await store.job(job.job.id)).attempts) == ("busy", "broken", "late")


async def test_attempts_are_found_by_node(store: Store) -> None:
    await _running(store, 3)
    await decided(store, inference(1), deliver(ref_of(inference(1)), tensors=(LABELS,)))
    await decided(store, inference(2), fail(ref_of(inference(2))))
    found = await store.attempts_on(NODE)
    assert [(a.ref, a.state) for a in found] == [
        (ref_of(inference(0)), AttemptState.RUNNING),
        (ref_of(inference(1)), AttemptState.VERIFYING),
    ]
    assert await store.attempts_on(OTHER) == []


async def test_results_to_verify_come_with_their_tensors_after_a_restart(open_again: Open) -> None:
    async with open_again() as store:
        await _running(store, 2)
        await decided(store, inference(1), deliver(ref_of(inference(1)), tensors=(LABELS,)))
    async with open_again() as store:
        (attempt,) = await store.verifying()
        assert (attempt.ref, attempt.tensors) == (ref_of(inference(1)), (LABELS,))


async def test_a_lease_runs_out_unless_it_is_extended(store: Store, clock: ManualClock) -> None:
    await _running(store, 2)
    first, second = ref_of(inference(0)), ref_of(inference(1))
    clock.advance(20)
    assert await store.extend_leases(NODE, [first], 30) == []
    clock.advance(9.5)
    assert await store.expired() == []
    clock.advance(0.5)
    assert await store.expired() == [second]
    clock.advance(20)
    assert await store.expired() == [second, first]


async def test_lost_leases_are_named_and_not_extended(store: Store, clock: ManualClock) -> None:
    await _running(store, 4)
    jobs = [inference(number) for number in range(4)]
    ended, verifying, running, foreign = (ref_of(job) for job in jobs)
    await decided(store, jobs[0], fail(ended))
    await decided(store, jobs[1], deliver(verifying))
    unknown = ref_of(inference(2), number=9)
    await decided(store, jobs[3], fail(foreign), begin(ref_of(jobs[3], 2), OTHER))
    moved = ref_of(jobs[3], 2)
    lost = await store.extend_leases(NODE, [ended, verifying, running, unknown, moved], 100)
    assert lost == [ended, unknown, moved]
    clock.advance(31)
    assert await store.expired() == [moved]


async def test_no_leases_to_extend(store: Store) -> None:
    assert await store.extend_leases(NODE, [], 10) == []


async def test_a_restart_gives_every_running_attempt_a_fresh_lease(open_again: Open, clock: ManualClock) -> None:
    async with open_again() as store:
        await _running(store, 2)
    clock.advance(1000)
    async with open_again() as store:
        await store.extend_all_leases(30)
        assert await store.expired() == []
        clock.advance(30)
        assert len(await store.expired()) == 2


async def test_a_result_being_verified_has_no_lease_to_lose(store: Store, clock: ManualClock) -> None:
    await _running(store)
    await decided(store, inference(), deliver(ref_of(inference())))
    clock.advance(1000)
    assert await store.expired() == []


async def test_four_thousand_leases_are_extended_in_one_write(store: Store) -> None:
    await _running(store)
    refs = [ref_of(inference(number)) for number in range(4096)]
    assert await store.extend_leases(NODE, refs, 10) == refs[1:]
