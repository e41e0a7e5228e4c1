"""Double entries: written with what they record, matched with the contract's events, taken back with their block."""

import pytest

from orchestrator.core.ledger import CAPITAL, WORK, EntryKind, Totals, chain_account, owed, tickets
from orchestrator.core.records import ChainEntry, ChainEvents, Cursor, Failure, Finding, PaymentRecord
from orchestrator.ports.store import Store
from tandem.protocol.errors import Conflict
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import HUGE, NODE, OTHER, PARAMS, at_once, earn, issue

SOURCE = "31337:0xc0:0x5e"
GENESIS = Cursor(SOURCE, 10, b"\x0a" * 32)
REFUSED = Failure("ticket_unfunded", "the reserve is too small", retryable=False)
VALUE = PARAMS.expected_value()
FACE = PARAMS.face_value


def event(kind: EntryKind, amount: int, block: int, index: int = 0) -> ChainEntry:
    return ChainEntry(kind, amount, block, bytes([block]) * 32, b"\7" * 32, index)


def redeemed(*nonces: int, block: int, params_hash: bytes = PARAMS.hash()) -> ChainEntry:
    return ChainEntry(
        EntryKind.REDEEMED,
        FACE * len(nonces),
        block,
        bytes([block]) * 32,
        b"\7" * 32,
        0,
        recipient=NODE,
        params_hash=params_hash,
        sender_nonces=nonces,
    )


async def watched(store: Store, *events: ChainEntry, block: int) -> list[Finding]:
    """The events of the blocks up to this one."""
    cursor = await store.cursor(SOURCE)
    if cursor is None:
        await store.begin_at(GENESIS)
        cursor = GENESIS
    return await store.record_blocks(cursor, block, bytes([block]) * 32, ChainEvents(events))


async def paid(store: Store, count: int) -> PaymentRecord:
    payment = await store.decide_account(NODE, issue(count))
    assert payment is not None
    return payment


async def check(store: Store) -> None:
    """The running totals are what the entries add up to."""
    balance = (await store.books(SOURCE)).balance
    assert sum(balance.debits.values()) == sum(balance.credits.values())
    for account in await store.accounts():
        assert account.totals == balance.totals(account.node)
        assert -balance.balance(owed(account.node)) == account.totals.owed
        assert -balance.balance(tickets(account.node)) == account.totals.outstanding
    cursor = await store.cursor(SOURCE)
    assert balance.balance(chain_account(SOURCE)) == (cursor.balance if cursor else 0)


async def test_the_way_of_money_from_capital_to_a_winner(open_again: Open) -> None:
    async with open_again() as store:
        await watched(store, event(EntryKind.FUNDED, 10 * FACE, 11), event(EntryKind.WITHDRAWN, FACE, 12), block=12)
        await earn(store, 3 * VALUE + 1)
        payment = await paid(store, 4)
        assert await watched(store, redeemed(1, 3, block=14), block=20) == []
        await store.record_receipt(NODE, payment.id, None)
    async with open_again() as store:
        account = await store.account(NODE)
        assert account.totals == Totals(earned=3 * VALUE + 1, issued=4 * VALUE, refused=0, redeemed=2 * FACE)
        assert (account.totals.owed, account.totals.outstanding) == (1 - VALUE, 4 * VALUE - 2 * FACE)
        assert account.unissued == 0
        balance = (await store.books(SOURCE)).balance
        assert balance.balance(WORK) == 3 * VALUE + 1
        assert -balance.balance(CAPITAL) == 9 * FACE
        assert balance.balance(chain_account(SOURCE)) == 7 * FACE
        assert await store.cursor(SOURCE) == Cursor(SOURCE, 20, b"\x14" * 32, balance=7 * FACE)
        await check(store)


async def test_an_acceptance_and_its_entry_are_one_write(store: Store) -> None:
    await earn(store, HUGE, number=1)
    await earn(store, 0, number=2)
    await earn(store, 5, number=3, node=OTHER)
    balance = (await store.books(SOURCE)).balance
    assert balance.entries == 2
    assert balance.balance(WORK) == HUGE + 5
    assert (await store.account(NODE)).active_at is not None
    assert (await store.books(SOURCE)).attempts == {NODE: HUGE, OTHER: 5}
    await check(store)


async def test_a_refusal_is_the_reverse_of_an_issue(store: Store) -> None:
    payment = await paid(store, 2)
    for _ in range(2):
        await store.record_receipt(NODE, payment.id, REFUSED)
    assert (await store.account(NODE)).totals == Totals(issued=2 * VALUE, refused=2 * VALUE)
    assert (await store.account(NODE)).totals.owed == 0
    await check(store)


async def test_tickets_that_were_refused_and_redeemed_are_not_made_good(store: Store) -> None:
    refused, kept = await paid(store, 2), await paid(store, 1)
    await store.record_receipt(NODE, refused.id, REFUSED)
    assert await watched(store, redeemed(0, 2, block=11), block=11) == [Finding(NODE, b"\7" * 32, voided=2 * VALUE)]
    assert (await store.account(NODE)).refused == 0
    first, second = await store.payments_of(NODE)
    assert (first.receipt, first.failure, second.receipt) == (True, None, None)
    await check(store)
    # And the other way round: once it has paid, it is too late to refuse it.
    await store.record_receipt(NODE, kept.id, REFUSED)
    assert (await store.account(NODE)).refused == 0
    assert await store.open_payments(NODE) == []
    await check(store)


@pytest.mark.parametrize(
    ("event", "forged"),
    [
        (redeemed(1, 2, 3, block=11), 1),
        (redeemed(7, block=11), 1),
        (redeemed(0, 1, block=11, params_hash=b"\x66" * 32), 2),
    ],
    ids=["one of three", "a nonce to come", "other terms"],
)
async def test_a_ticket_that_was_never_issued_is_found(store: Store, event: ChainEntry, forged: int) -> None:
    await paid(store, 2)
    await paid(store, 1)
    finding = Finding(NODE, b"\7" * 32, unissued=forged * FACE)
    assert await watched(store, event, block=12) == [finding]
    assert (await store.books(SOURCE)).findings == (finding,)
    assert (await store.account(NODE)).unissued == forged * FACE
    await paid(store, 8)  # issued too late
    assert (await store.books(SOURCE)).findings == (finding,)
    await check(store)


async def test_tickets_of_another_node_do_not_count(store: Store) -> None:
    await store.decide_account(OTHER, issue(3))
    (finding,) = await watched(store, redeemed(1, block=11), block=12)
    assert finding.unissued == FACE


async def test_a_block_that_vanished_takes_its_entries_along(store: Store) -> None:
    await paid(store, 3)
    await watched(store, event(EntryKind.FUNDED, 9 * FACE, 11), block=12)
    await watched(store, event(EntryKind.WITHDRAWN, FACE, 13), redeemed(0, 5, block=14), block=15)
    assert await store.entry_blocks(SOURCE, 15, 2) == [(14, b"\x0e" * 32), (13, b"\x0d" * 32)]
    assert await store.entry_blocks(SOURCE, 13, 2) == [(11, b"\x0b" * 32)]
    cursor = await store.cursor(SOURCE)
    assert cursor is not None
    assert await store.take_back(cursor, 11, b"\x0b" * 32) == 2
    assert await store.cursor(SOURCE) == Cursor(SOURCE, 11, b"\x0b" * 32, 9 * FACE, reorganisations=1)
    account = await store.account(NODE)
    assert (account.redeemed, account.unissued) == (0, 0)
    assert (await store.books(SOURCE)).findings == ()
    await check(store)
    # The block comes back, if the chain turns round once more.
    await watched(store, redeemed(0, 2, block=14), block=15)
    assert (await store.account(NODE)).redeemed == 2 * FACE
    await check(store)


async def test_blocks_are_read_once_however_many_read_them(store: Store) -> None:
    await store.begin_at(GENESIS)
    events = (event(EntryKind.FUNDED, 5, 11), event(EntryKind.FUNDED, 6, 11, index=1))
    outcomes = await at_once(8, lambda _number: store.record_blocks(GENESIS, 11, b"\x0b" * 32, ChainEvents(events)))
    assert [outcome for outcome in outcomes if not isinstance(outcome, Conflict)] == [[]]
    with pytest.raises(Conflict, match="stand at block 10"):
        await store.take_back(GENESIS, 9, b"\x09" * 32)
    assert await store.cursor(SOURCE) == Cursor(SOURCE, 11, b"\x0b" * 32, balance=11)
    assert (await store.books(SOURCE)).balance.entries == 2


async def test_whoever_is_promised_a_part_of_the_reserve_has_an_account(store: Store) -> None:
    await store.begin_at(GENESIS)
    await earn(store, 5)
    await store.record_blocks(GENESIS, 11, b"\x0b" * 32, ChainEvents(recipients=frozenset({NODE, OTHER})))
    accounts = await store.accounts()
    assert [(account.node, account.earned) for account in accounts] == [(NODE, 5), (OTHER, 0)]
    assert all(account.active_at is not None for account in accounts)
