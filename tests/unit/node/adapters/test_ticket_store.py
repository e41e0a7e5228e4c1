import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters import ticket_store
from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import AcceptedPayment, check, fund
from node.core.exposure import Balance
from node.core.gas import GasPrice
from node.core.redemption import WinningSet
from node.core.standing import Note
from node.core.terms import Epochs, Stakes
from node.ports.contract import Paid, RedemptionOutcome
from tandem.chain.events import Refusal
from tandem.chain.redemption import RedemptionResult, Refused
from tandem.chain.transactions import SignedTransaction
from tandem.protocol.errors import ConfigurationError, TicketExpired, TicketReplayed, TicketRevealed
from tandem.protocol.messages import Payment, PaymentReceipt
from tandem.protocol.tickets import Domain
from tests.fixtures.node import (
    ALWAYS,
    DOMAIN,
    NODE,
    NOW,
    SENDER,
    SIGNER,
    STAKES,
    backing,
    paid,
    payment,
    ref,
    terms,
    till,
)

DIGEST = b"d" * 32
TRANSACTION = SignedTransaction(b"\x01" * 32, 7, b"raw", "redeem tickets", NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tickets.db"


def open_store(path: Path) -> SqliteTicketStore:
    return SqliteTicketStore(path, NODE.address, DOMAIN)


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteTicketStore]:
    async with open_store(path) as store:
        yield store


def accepted(message: Payment) -> AcceptedPayment:
    return fund(check(message, till(Epochs(current=9)), frozenset()), backing(), 0)


def won(count: int, stakes: Stakes = ALWAYS, *, number: int = 1, epoch: int = 1) -> AcceptedPayment:
    return accepted(payment(terms(stakes, epoch=epoch), range(count), number=number))


async def test_it_begins_empty_and_private(store: SqliteTicketStore, path: Path) -> None:
    assert await store.epochs() == Epochs(1, 0)
    assert await store.balance(SENDER.address) == Balance()
    assert len(store.secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600


async def test_everything_is_there_after_a_restart(path: Path) -> None:
    async with open_store(path) as store:
        secret = store.secret
        await store.take(won(2), DIGEST)
        await store.earn(SENDER.address, ref(), 5000)
        await store.rotate()
        await store.record(TRANSACTION)
    async with open_store(path) as store:
        assert store.secret == secret
        assert await store.epochs() == Epochs(2, 0)
        assert await store.balance(SENDER.address) == Balance(earned=5000, received=2 * 999)
        assert [len(found.tickets) for found in await store.winners(NOW)] == [2]
        assert await store.pending() == (TRANSACTION,)
        assert await store.receipt(SENDER.address, 1, DIGEST) == PaymentReceipt(id=1, accepted=True)


@pytest.mark.parametrize(
    ("recipient", "domain"),
    [(SENDER.address, DOMAIN), (NODE.address, Domain(chain_id=1, contract=DOMAIN.contract))],
)
async def test_it_belongs_to_one_key_chain_and_contract(path: Path, recipient: str, domain: Domain) -> None:
    async with open_store(path) as store:
        await store.earn(SENDER.address, ref(), 1)
    with pytest.raises(ConfigurationError, match="data folder of its own"):
        async with SqliteTicketStore(path, recipient, domain):
            pass


async def test_one_that_was_opened_for_another_chain_by_mistake_changes_hands(path: Path) -> None:
    async with SqliteTicketStore(path, NODE.address, Domain(chain_id=1, contract=DOMAIN.contract)) as store:
        secret = store.secret
        await store.rotate()
    async with open_store(path) as store:
        assert (store.secret, await store.epochs()) == (secret, Epochs(2, 0))


async def test_another_version_is_refused(path: Path) -> None:
    async with open_store(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigurationError):
        async with open_store(path):
            pass


async def test_epochs_only_move_forward(store: SqliteTicketStore) -> None:
    assert await store.rotate() == Epochs(2, 0)
    assert await store.rotate() == Epochs(3, 0)
    assert await store.close_epochs(2) == Epochs(3, 2)
    assert await store.close_epochs(1) == Epochs(3, 2)
    with pytest.raises(sqlite3.IntegrityError):
        await store.close_epochs(3)


async def test_an_accepted_attempt_is_earned_once(store: SqliteTicketStore) -> None:
    assert await store.earn(SENDER.address, ref(1), 10**20) == Balance(earned=10**20)
    assert await store.earn(SENDER.address, ref(1), 10**20) == Balance(earned=10**20)
    assert await store.earn(SENDER.address, ref(2), 1) == Balance(earned=10**20 + 1)
    assert await store.balance(NODE.address) == Balance()


async def test_tickets_receipt_and_balance_are_one_write(store: SqliteTicketStore) -> None:
    assert await store.take(won(3), DIGEST) == Balance(received=3 * 999)
    with pytest.raises(TicketReplayed):
        await store.take(accepted(payment(terms(ALWAYS), [3, 2], number=2)), DIGEST)
    assert await store.receipt(SENDER.address, 2, DIGEST) is None
    assert await store.balance(SENDER.address) == Balance(received=3 * 999)
    assert await store.seen(terms(ALWAYS).hash(), [1, 2, 3]) == {1, 2}


async def test_nothing_is_taken_under_a_closed_epoch(store: SqliteTicketStore) -> None:
    await store.rotate()
    await store.close_epochs(1)
    with pytest.raises(TicketRevealed):
        await store.take(won(1), DIGEST)
    await store.take(won(1, epoch=2), DIGEST)


async def test_a_receipt_is_for_that_very_payment(store: SqliteTicketStore) -> None:
    refusal = PaymentReceipt(id=1, accepted=False, code="ticket_expired", detail="late")
    await store.refuse(SENDER.address, refusal, DIGEST)
    assert await store.receipt(SENDER.address, 1, DIGEST) == refusal
    assert await store.receipt(SENDER.address, 1, b"e" * 32) is None
    assert await store.receipt(NODE.address, 1, DIGEST) is None


async def test_winners_come_by_parameters_until_they_expire(store: SqliteTicketStore) -> None:
    await store.take(won(2), DIGEST)
    await store.take(won(1, epoch=2, number=2), DIGEST)
    found = await store.winners(NOW)
    assert sorted((each.epoch, len(each.tickets), each.value) for each in found) == [(1, 2, 2000), (2, 1, 1000)]
    assert await store.outstanding(SENDER.address, NOW) == 3000
    assert await store.outstanding(NODE.address, NOW) == 0
    assert await store.winners(terms().expiry) == ()


async def in_flight(store: SqliteTicketStore, sets: Sequence[WinningSet], tx_nonce: int = 7) -> None:
    with store.redeeming(sets):
        await store.record(replace(TRANSACTION, tx_nonce=tx_nonce, tx_hash=tx_nonce.to_bytes(32)))


async def test_a_settled_redemption_is_written_with_its_transaction(store: SqliteTicketStore) -> None:
    await store.take(won(3), DIGEST)
    (winners,) = await store.winners(NOW)
    part = replace(winners, tickets=winners.tickets[:2])
    await in_flight(store, [part])
    outcome = RedemptionOutcome(7, paid([part]), 90_000)
    await store.settle(outcome, NOW)
    await store.settle(outcome, NOW)
    assert await store.pending() == ()
    assert [ticket.sender_nonce for ticket in (await store.winners(NOW))[0].tickets] == [2]
    totals = await store.totals(NOW)
    assert (totals.redeemed, totals.gas_spent, totals.outstanding, totals.winners) == (2000, 7, 1000, 3)


async def test_winners_in_flight_are_outstanding_and_not_planned_again(path: Path) -> None:
    async with open_store(path) as store:
        await store.take(won(3), DIGEST)
        (winners,) = await store.winners(NOW)
        await in_flight(store, [replace(winners, tickets=winners.tickets[:2])])
    async with open_store(path) as store:
        assert [ticket.sender_nonce for ticket in (await store.winners(NOW))[0].tickets] == [2]
        assert await store.in_flight() == {SENDER.address: 2000}
        assert await store.outstanding(SENDER.address, NOW) == 3000
        totals = await store.totals(NOW)
        assert (totals.in_flight, totals.outstanding) == (2000, 3000)


async def test_a_version_with_higher_fees_leaves_the_winners_in_flight(store: SqliteTicketStore) -> None:
    await store.take(won(2), DIGEST)
    await in_flight(store, await store.winners(NOW))
    await store.record(replace(TRANSACTION, tx_hash=b"\x02" * 32))
    assert (await store.winners(NOW), len(await store.pending())) == ((), 2)


@pytest.mark.parametrize("how", ["displaced", "reverted", "never sent"])
async def test_winners_whose_transaction_came_to_nothing_are_winners_again(store: SqliteTicketStore, how: str) -> None:
    await store.take(won(2), DIGEST)
    before = await store.winners(NOW)
    await in_flight(store, before)
    match how:
        case "displaced":
            await store.settle(RedemptionOutcome(7, None), NOW)
        case "reverted":
            result = RedemptionResult(TRANSACTION.tx_hash, (), (), 0, 9)
            await store.settle(RedemptionOutcome(7, result, 80_000, is_reverted=True), NOW)
        case _:
            await store.forget(7)
    assert (await store.winners(NOW), await store.pending(), await store.in_flight()) == (before, (), {})
    assert (await store.totals(NOW)).gas_spent == (9 if how == "reverted" else 0)
    assert await store.gas_per_winner() is None


@pytest.mark.parametrize(
    ("reason", "left", "refused"),
    [
        (Refusal.UNFUNDED, 2, {}),
        (Refusal.ALREADY_REDEEMED, 1, {}),
        (Refusal.INVALID_SIGNATURE, 1, {"invalid_signature": 1}),
        (Refusal.EXPIRED, 1, {"expired": 1}),
    ],
)
async def test_what_is_not_paid_waits_or_is_given_up(
    store: SqliteTicketStore, reason: Refusal, left: int, refused: dict[str, int]
) -> None:
    await store.take(won(2), DIGEST)
    (winners,) = await store.winners(NOW)
    await in_flight(store, [replace(winners, tickets=winners.tickets[:1])])
    nonce = None if reason is Refusal.EXPIRED else 0
    result = RedemptionResult(b"\x01" * 32, (), (Refused(terms(ALWAYS).hash(), nonce, reason),), 0, 7)
    await store.settle(RedemptionOutcome(7, result), NOW)
    assert sum(len(found.tickets) for found in await store.winners(NOW)) == left
    assert (await store.totals(NOW)).refused == refused


async def test_what_a_reorganisation_took_back_is_won_again(path: Path) -> None:
    async with open_store(path) as store:
        await store.take(won(3), DIGEST)
        (winners,) = await store.winners(NOW)
        part = replace(winners, tickets=winners.tickets[1:])
        await in_flight(store, [part])
        result = paid([part])
        await store.settle(RedemptionOutcome(7, result, 90_000, block_number=5, block_hash=b"h" * 32), NOW)
    async with open_store(path) as store:
        assert await store.paid_since(NOW) == ()
        (found,) = await store.paid_since(NOW - 1)
        assert found == Paid(result.tx_hash, 5, b"h" * 32, winners.params, 1)
        await store.take_back(found)
        assert await store.winners(NOW) == (winners,)
        assert (await store.totals(NOW)).redeemed == 0
        assert await store.paid_since(NOW - 1) == ()


async def test_only_what_the_undone_transaction_paid_is_won_again(path: Path) -> None:
    """A reorganisation that drops a transaction frees its tx_nonce, and another one may be mined under it."""
    async with open_store(path) as store:
        await store.take(won(3), DIGEST)
        (winners,) = await store.winners(NOW)
        parts = [replace(winners, tickets=tickets) for tickets in (winners.tickets[:1], winners.tickets[1:])]
        for number, part in enumerate(parts, 1):
            await in_flight(store, [part])
            await store.settle(RedemptionOutcome(7, paid([part], number), 9, block_number=5, block_hash=b"h"), NOW)
        first, _ = sorted(await store.paid_since(NOW - 1), key=lambda found: found.tx_hash)
        await store.take_back(first)
        assert await store.winners(NOW) == (parts[0],)
        assert (await store.totals(NOW)).redeemed == parts[1].value


async def test_who_signed_is_known_after_a_restart(path: Path) -> None:
    async with open_store(path) as store:
        await store.take(accepted(payment(terms(ALWAYS), [0])), DIGEST)
        await store.take(accepted(payment(terms(ALWAYS), [1], number=2, key=SENDER)), DIGEST)
    async with open_store(path) as store:
        (winners,) = await store.winners(NOW)
        assert winners.signers == {SIGNER.address}


async def test_what_a_winner_costs_is_measured_over_redemptions(store: SqliteTicketStore) -> None:
    await store.take(won(4), DIGEST)
    (winners,) = await store.winners(NOW)
    for number, tickets in enumerate((winners.tickets[:1], winners.tickets[1:]), start=1):
        result = paid([replace(winners, tickets=tickets)], number)
        await store.settle(RedemptionOutcome(number, result, 80_000), NOW + number)
    assert await store.gas_per_winner() == 40_000


async def test_the_last_gas_price_is_kept(path: Path) -> None:
    price = GasPrice(3 * 10**30, 2 * 10**30, NOW)
    async with open_store(path) as store:
        assert await store.gas_price() is None
        await store.keep_gas_price(price)
    async with open_store(path) as store:
        assert await store.gas_price() == price


async def test_a_note_keeps_the_time_since_when_it_holds(store: SqliteTicketStore) -> None:
    await store.note("chain", "no answer", NOW)
    await store.note("chain", "no answer", NOW + 1)
    await store.note("session", "", NOW + 2)
    assert await store.notes() == (Note("chain", "no answer", NOW), Note("session", "", NOW + 2))
    await store.note("chain", "", NOW + 3)
    assert (await store.notes())[0] == Note("chain", "", NOW + 3)


async def test_what_expired_is_forgotten_and_its_sums_are_not(store: SqliteTicketStore) -> None:
    params = terms(STAKES)
    both = accepted(payment(params, range(40)))
    await store.take(both, DIGEST)
    await store.prune(params.expiry + 86_399)
    assert len(await store.seen(params.hash(), range(40))) == 40
    await store.prune(params.expiry + 86_400)
    assert await store.seen(params.hash(), range(40)) == set()
    for _ in range(2):
        totals = await store.totals(params.expiry)
        assert (totals.tickets, totals.winners) == (40, len(both.checked.winners))
        assert (totals.outstanding, totals.expired) == (0, 4000 * totals.winners)
        await store.prune(params.expiry + 90_000)


async def test_winners_that_were_refused_are_forgotten_and_counted(store: SqliteTicketStore) -> None:
    await store.take(won(4), DIGEST)
    (winners,) = await store.winners(NOW)
    await in_flight(store, [replace(winners, tickets=winners.tickets[:2])])
    reasons = (Refusal.INVALID_SIGNATURE, Refusal.EXPIRED)
    refused = tuple(Refused(terms(ALWAYS).hash(), nonce, reason) for nonce, reason in enumerate(reasons))
    await store.settle(RedemptionOutcome(7, RedemptionResult(b"\x01" * 32, (), refused, 0, 7)), NOW)
    expiry = winners.params.expiry
    before = await store.totals(expiry)
    assert (before.refused, before.expired) == ({"invalid_signature": 1, "expired": 1}, 2000)
    await store.prune(expiry + 86_400)
    assert await store.seen(winners.params.hash(), range(4)) == set()
    assert await store.totals(expiry) == before
    later = accepted(payment(terms(ALWAYS, now=NOW + 1), range(1), number=3))
    await store.take(later, DIGEST)
    assert (await store.totals(expiry + 90_000)).expired == 3000


async def test_winners_in_flight_are_not_forgotten(store: SqliteTicketStore) -> None:
    await store.take(won(1), DIGEST)
    winners = await store.winners(NOW)
    await in_flight(store, winners)
    await store.prune(winners[0].params.expiry + 86_400)
    assert await store.in_flight() == {SENDER.address: 1000}
    await store.settle(RedemptionOutcome(7, paid(winners)), NOW)
    assert (await store.totals(NOW)).redeemed == 1000


async def test_much_is_forgotten_in_steps(store: SqliteTicketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket_store, "_AT_ONCE", 4)
    params = terms(STAKES)
    both = accepted(payment(params, range(40)))
    await store.take(both, DIGEST)
    async with asyncio.TaskGroup() as group:
        pruning = group.create_task(store.prune(params.expiry + 86_400))
        await asyncio.sleep(0)
        left = await store.seen(params.hash(), range(40))
        assert len(left) == 36 - len(both.checked.winners), "another call comes after one step"
        assert not pruning.done()
    assert await store.seen(params.hash(), range(40)) == set()


async def test_a_clock_that_is_set_back_makes_no_nonce_new(store: SqliteTicketStore) -> None:
    params = terms(STAKES)
    await store.take(accepted(payment(params, range(40))), DIGEST)
    await store.prune(params.expiry + 86_400)
    with pytest.raises(TicketExpired, match="nonces are forgotten"):
        await store.take(accepted(payment(params, range(40), number=2)), DIGEST)
    assert (await store.balance(SENDER.address)).received == 40_000
    later = terms(STAKES, now=NOW + 1)
    await store.take(accepted(payment(later, range(40), number=3)), DIGEST)


async def test_only_the_last_answers_and_verdicts_are_known_again(
    store: SqliteTicketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket_store, "_REMEMBERED", 3)
    for number in range(1, 6):
        await store.refuse(SENDER.address, PaymentReceipt(id=number, accepted=False), DIGEST)
        await store.earn(SENDER.address, ref(number), 100)
    known = [await store.receipt(SENDER.address, number, DIGEST) is not None for number in range(1, 6)]
    assert known == [False, False, True, True, True]
    for number in (5, 3):
        assert (await store.earn(SENDER.address, ref(number), 100)).earned == 500
    assert (await store.totals(NOW)).attempts == 5


async def test_the_journal_keeps_every_version_until_it_is_told(store: SqliteTicketStore) -> None:
    version = replace(TRANSACTION, tx_hash=b"\x02" * 32)
    earlier = replace(TRANSACTION, tx_hash=b"\x03" * 32, tx_nonce=6)
    for transaction in (TRANSACTION, version, earlier):
        await store.record(transaction)
    assert set(await store.pending()) == {earlier, TRANSACTION, version}
    await store.forget(7)
    assert await store.pending() == (earlier,)
