"""What outlives the process of the funding key's transactions."""

from dataclasses import replace

from orchestrator.ports.store import Store
from tandem.chain.transactions import SignedTransaction
from tests.conformance.store.conftest import Open
from tests.fixtures.clock import ManualClock

FIRST = SignedTransaction(b"\1" * 32, 7, b"raw", "fund deposit", 1.5)
DEARER = replace(FIRST, tx_hash=b"\2" * 32, raw=b"dearer")
SECOND = replace(FIRST, tx_hash=b"\3" * 32, tx_nonce=8)
DAY = 86_400.0


async def test_transactions_are_there_in_every_version_until_they_are_forgotten(open_again: Open) -> None:
    async with open_again() as store:
        for transaction in (SECOND, FIRST, DEARER):
            await store.journal("1:0xa1").record(transaction)
        await store.journal("1:0xb2").record(replace(FIRST, tx_hash=b"\4" * 32))
    async with open_again() as store:
        journal = store.journal("1:0xa1")
        assert sorted(await journal.pending(), key=lambda each: each.tx_hash) == [FIRST, DEARER, SECOND]
        await journal.forget(7)
        assert await journal.pending() == [SECOND]
        assert len(await store.journal("1:0xb2").pending()) == 1


async def test_what_was_spent_is_known_for_a_day_and_may_be_taken_back(open_again: Open, clock: ManualClock) -> None:
    async with open_again() as store:
        first = await store.spend(2**200)
        clock.advance(10)
        await store.spend(5)
    async with open_again() as store:
        now = clock.now()
        assert await store.spent_since(now - DAY) == 2**200 + 5
        assert await store.spent_since(now - 5) == 5
        await store.unspend(first)
        assert await store.spent_since(now - DAY) == 5


async def test_old_spendings_are_forgotten(store: Store, clock: ManualClock) -> None:
    await store.spend(3)
    clock.advance(8 * DAY)
    await store.spend(4)
    assert await store.spent_since(0) == 4
