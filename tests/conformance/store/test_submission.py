"""Submitting jobs, and reading them back."""

from dataclasses import replace

import pytest

from orchestrator.core.records import JobSnapshot, Once
from orchestrator.ports.store import Store
from tandem.protocol.errors import IdempotencyConflict, NotFound
from tandem.protocol.jobs import JobState
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import (
    LABELS,
    PIXELS,
    at_once,
    cancel,
    decided,
    digest,
    inference,
    job_number,
    transcode,
)


async def test_a_job_comes_back_as_it_was_submitted_also_after_a_restart(open_again: Open) -> None:
    asked = inference(tasks=3)
    async with open_again() as store:
        assert await store.submit(asked) == asked.job.id
    async with open_again() as store:
        assert await store.job(asked.job.id) == JobSnapshot(asked.job, asked.tasks, ())
        assert await store.inputs(asked.tasks[0].id) == (PIXELS, LABELS)


async def test_a_transcode_comes_back_as_it_was_submitted(store: Store) -> None:
    await store.add_artifact(digest(7), 100, "video/mp4")
    asked = transcode()
    await store.submit(asked)
    assert await store.job(asked.job.id) == JobSnapshot(asked.job, asked.tasks, ())
    assert await store.inputs(asked.tasks[0].id) == ()


async def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match=job_number(1)):
        await store.job(job_number(1))


async def test_a_job_whose_artifact_is_gone_is_refused_as_a_whole(store: Store) -> None:
    asked = transcode()
    with pytest.raises(NotFound, match=digest(7)):
        await store.submit(asked)
    with pytest.raises(NotFound):
        await store.job(asked.job.id)
    assert await store.ready(10) == []


async def test_a_repeat_under_the_same_key_is_the_first_job(store: Store) -> None:
    first, again = inference(1, key="k"), inference(2, key="k")
    assert await store.submit(first) == first.job.id
    assert await store.submit(again) == first.job.id
    assert first.once
    assert await store.submitted("local", first.once) == first.job.id
    assert await store.submitted("somebody", first.once) is None
    assert len((await store.jobs(None)).jobs) == 1


async def test_another_request_under_the_same_key_is_a_conflict(store: Store) -> None:
    await store.submit(inference(1, key="k"))
    with pytest.raises(IdempotencyConflict, match=job_number(1)):
        await store.submitted("local", Once("k", b"other"))
    with pytest.raises(IdempotencyConflict, match=job_number(1)):
        await store.submit(replace(inference(2), once=Once("k", b"other")))
    assert len((await store.jobs(None)).jobs) == 1


async def test_a_key_is_its_owners_own(store: Store) -> None:
    assert await store.submit(inference(1, owner="ann", key="k")) == job_number(1)
    assert await store.submit(inference(2, owner="bob", key="k")) == job_number(2)


async def test_without_a_key_every_submission_is_a_job(store: Store) -> None:
    assert {await store.submit(inference(number)) for number in (1, 2)} == {job_number(1), job_number(2)}


async def test_one_key_at_the_same_time_makes_one_job(store: Store) -> None:
    answers = await at_once(32, lambda number: store.submit(inference(number, key="k")))
    assert len(set(answers)) == 1
    assert len((await store.jobs(None)).jobs) == 1


async def test_pages_are_newest_first_and_complete(store: Store) -> None:
    for number in range(5):
        await store.submit(inference(number, tasks=2))
    first = await store.jobs(None, limit=2)
    second = await store.jobs(None, limit=2, after=first.next_cursor)
    third = await store.jobs(None, limit=2, after=second.next_cursor)
    pages = [[snapshot.job.id for snapshot in page.jobs] for page in (first, second, third)]
    assert pages == [[job_number(4), job_number(3)], [job_number(2), job_number(1)], [job_number(0)]]
    assert third.next_cursor is None
    assert [len(snapshot.tasks) for snapshot in first.jobs] == [2, 2]


async def test_a_full_last_page_has_no_cursor(store: Store) -> None:
    await store.submit(inference(1))
    assert (await store.jobs(None, limit=1)).next_cursor is None
    assert (await store.jobs("nobody")).jobs == ()


async def test_pages_are_filtered_by_owner_and_state(store: Store) -> None:
    for number, owner in enumerate(["ann", "bob", "ann"]):
        await store.submit(inference(number, owner=owner))
    await decided(store, inference(2), cancel)

    async def found(owner: str | None, state: JobState | None) -> list[str]:
        return [snapshot.job.id for snapshot in (await store.jobs(owner, state=state)).jobs]

    assert await found("ann", None) == [job_number(2), job_number(0)]
    assert await found("ann", JobState.QUEUED) == [job_number(0)]
    assert await found(None, JobState.CANCELLED) == [job_number(2)]
