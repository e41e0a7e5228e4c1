"""On-line usage: windows, and sums by day."""

from dataclasses import replace

import pytest

from orchestrator.core.ledger import EntryKind
from orchestrator.core.reconciliation import reconcile
from orchestrator.core.records import UsageRecord, UsageShare, UsageWindowRecord
from orchestrator.ports.store import Store
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import NODE, OTHER, at_once
from tests.fixtures.clock import ManualClock

DAY = "2027-01-15"
"""At which the clock of the tests starts."""
MINE = UsageShare("key_me", "digits", "1", requests=3, price=30)
THEIRS = UsageShare("key_you", "digits", "1", requests=1, price=10)
FREE = UsageShare("key_me", "free", "2", requests=5, price=0)


def window(number: int, *shares: UsageShare, node: str = NODE) -> UsageWindowRecord:
    requests, price = sum(share.requests for share in shares), sum(share.price for share in shares)
    return UsageWindowRecord(f"win_{number:028x}", node, shares, requests, price)


def opened(settled: UsageWindowRecord) -> UsageWindowRecord:
    return replace(settled, shares=())


async def test_a_window_is_owed_and_open_until_it_is_answered(open_again: Open) -> None:
    first, second = window(1, MINE, THEIRS), window(2, MINE)
    async with open_again() as store:
        await store.settle_usage([second, window(3, THEIRS, node=OTHER)])
        await store.settle_usage([first])
    async with open_again() as store:
        assert (await store.account(NODE)).earned == 70
        assert (await store.account(OTHER)).earned == 10
        assert await store.open_windows(NODE, 9) == [opened(first), opened(second)]
        assert await store.open_windows(NODE, 1) == [opened(first)]
        await store.close_window(OTHER, first.id)
        for _ in range(2):
            await store.close_window(NODE, first.id)
        assert await store.open_windows(NODE, 9) == [opened(second)]
        assert (await store.account(NODE)).earned == 70


async def test_a_window_that_is_settled_again_changes_nothing(store: Store) -> None:
    for _ in range(2):
        await store.settle_usage([window(1, MINE), window(2, MINE)])
    assert (await store.account(NODE)).earned == 60
    assert (await store.usage("key_me")).records == (UsageRecord(DAY, "digits", "1", 6, 60),)


async def test_windows_are_settled_all_or_not_at_all(store: Store) -> None:
    impossible = replace(window(2, MINE), requests=0)
    with pytest.raises(Exception, match="not_empty"):
        await store.settle_usage([window(1, MINE), impossible])
    assert (await store.account(NODE)).earned == 0
    assert (await store.usage(None)).records == ()


async def test_amounts_have_any_size(store: Store) -> None:
    large = replace(MINE, price=2**200)
    await store.settle_usage([window(1, large)])
    await store.settle_usage([window(2, large)])
    assert (await store.account(NODE)).earned == 2**201


async def test_work_for_nothing_is_counted_and_owes_nothing(store: Store) -> None:
    await store.settle_usage([window(1, FREE)])
    assert await store.open_windows(NODE, 9) == [opened(window(1, FREE))]
    assert (await store.usage("key_me")).records == (UsageRecord(DAY, "free", "2", 5, 0),)
    assert (await store.books("source")).balance.entries == 0


async def test_usage_is_shown_by_day_and_model_in_pages(store: Store, clock: ManualClock) -> None:
    await store.settle_usage([window(1, MINE, FREE, THEIRS), window(2, MINE, node=OTHER)])
    clock.advance(86_400)
    await store.settle_usage([window(3, MINE)])
    digits, free = UsageRecord(DAY, "digits", "1", 6, 60), UsageRecord(DAY, "free", "2", 5, 0)
    later = UsageRecord("2027-01-16", "digits", "1", 3, 30)
    assert (await store.usage("key_me")).records == (later, digits, free)
    assert (await store.usage("key_you")).records == (UsageRecord(DAY, "digits", "1", 1, 10),)
    assert (await store.usage(None)).records == (later, UsageRecord(DAY, "digits", "1", 7, 70), free)
    first = await store.usage("key_me", limit=2)
    assert first.records == (later, digits)
    last = await store.usage("key_me", after=first.next_cursor, limit=2)
    assert (last.records, last.next_cursor) == ((free,), None)
    with pytest.raises(ValueError, match="end of a page"):
        await store.usage("key_me", after="yesterday")


async def test_the_books_add_usage_up(store: Store) -> None:
    await store.settle_usage([window(1, MINE, THEIRS, FREE), window(2, MINE, node=OTHER)])
    books = await store.books("source")
    assert books.usage == {NODE: 40, OTHER: 30}
    assert books.balance.kinds == {(EntryKind.USED, f"owed:{NODE}"): 40, (EntryKind.USED, f"owed:{OTHER}"): 30}
    assert reconcile(books, "source", None).differences == ()


async def test_windows_of_many_callers_are_all_there(store: Store) -> None:
    await at_once(19, lambda number: store.settle_usage([window(number, MINE)]))
    assert (await store.account(NODE)).earned == 19 * 30
    assert (await store.usage("key_me")).records == (UsageRecord(DAY, "digits", "1", 57, 570),)
