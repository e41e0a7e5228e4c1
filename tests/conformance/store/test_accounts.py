"""Accounts of nodes, and payments."""

from dataclasses import replace

import pytest

from orchestrator.core.records import AccountChanges, AccountRecord, Failure, Standing, UsageWindowRecord
from orchestrator.ports.store import Store
from tandem.protocol.errors import TicketUnfunded
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import NODE, OTHER, PARAMS, at_once, earn, issue

REFUSED = Failure("ticket_unfunded", "the reserve is too small", retryable=False)


async def test_an_unknown_node_has_an_account_of_zeroes(store: Store) -> None:
    assert await store.account(NODE) == AccountRecord(NODE)
    assert await store.accounts() == []


async def test_terms_are_kept(open_again: Open) -> None:
    async with open_again() as store:
        assert await store.decide_account(NODE, lambda _account, _now: AccountChanges(params=PARAMS)) is None
    async with open_again() as store:
        adopted = AccountRecord(NODE, params=PARAMS)
        assert await store.account(NODE) == adopted
        assert await store.accounts() == [adopted]


async def test_a_payment_whose_nonces_are_not_the_next_is_refused(store: Store) -> None:
    first = await store.decide_account(NODE, issue(2))
    assert first is not None
    with pytest.raises(ValueError, match="from nonce 2 on"):
        await store.decide_account(NODE, lambda _account, _now: AccountChanges(payment=first))
    assert await store.payments_of(NODE) == [first]


async def test_a_payment_gets_an_id_and_is_open_until_it_is_answered(open_again: Open) -> None:
    async with open_again() as store:
        first = await store.decide_account(NODE, issue(2))
        second = await store.decide_account(NODE, issue(3))
        await store.decide_account(OTHER, issue(1))
    assert first is not None
    assert second is not None
    assert 0 < first.id < second.id
    async with open_again() as store:
        assert await store.open_payments(NODE) == [first, second]
        await store.record_receipt(NODE, first.id, None)
        assert await store.open_payments(NODE) == [second]
        assert await store.payments_of(NODE) == [replace(first, receipt=True, tickets=()), second]
        account = await store.account(NODE)
        assert (account.issued, account.refused, account.next_nonce) == (first.value + second.value, 0, 5)


async def test_a_refused_payment_counts_once(store: Store) -> None:
    payment = await store.decide_account(NODE, issue(2))
    assert payment is not None
    for _ in range(2):
        await store.record_receipt(NODE, payment.id, REFUSED)
    await store.record_receipt(NODE, payment.id, None)
    assert (await store.account(NODE)).refused == payment.value == 10**18
    assert await store.payments_of(NODE) == [replace(payment, receipt=False, failure=REFUSED, tickets=())]


async def test_a_receipt_says_how_the_account_stands(store: Store) -> None:
    await earn(store, 7)
    first, second = await store.decide_account(NODE, issue(2)), await store.decide_account(NODE, issue(3))
    assert first is not None
    assert second is not None
    standing = await store.standing(NODE)
    assert standing == Standing(await store.account(NODE), 2, first.value + second.value)
    assert await store.record_receipt(OTHER, first.id, None) == Standing(AccountRecord(OTHER), 0, 0)
    standing = await store.record_receipt(NODE, first.id, REFUSED)
    assert standing == Standing(await store.account(NODE), 1, second.value)
    assert standing.account.refused == first.value


async def test_an_acceptance_leaves_terms_alone(store: Store) -> None:
    await store.decide_account(NODE, issue(2))
    before = await store.account(NODE)
    await earn(store, 7)
    after = await store.account(NODE)
    assert after == replace(before, earned=7, active_at=after.active_at)
    assert after.active_at is not None


async def test_a_received_payment_cannot_be_refused_later(store: Store) -> None:
    payment = await store.decide_account(NODE, issue(1))
    assert payment is not None
    await store.record_receipt(NODE, payment.id, None)
    await store.record_receipt(NODE, payment.id, REFUSED)
    assert (await store.account(NODE)).refused == 0


async def test_a_node_answers_only_its_own_payments(store: Store) -> None:
    payment = await store.decide_account(NODE, issue(1))
    assert payment is not None
    await store.record_receipt(OTHER, payment.id, REFUSED)
    await store.record_receipt(OTHER, 999, REFUSED)
    assert await store.open_payments(NODE) == [payment]
    assert await store.account(OTHER) == AccountRecord(OTHER)


async def test_a_decision_that_raises_changes_nothing(store: Store) -> None:
    def refuse(_account: AccountRecord, _now: float) -> AccountChanges:
        raise TicketUnfunded("no")

    with pytest.raises(TicketUnfunded):
        await store.decide_account(NODE, refuse)
    assert await store.accounts() == []


async def test_a_nonce_is_signed_once_however_many_ask_at_the_same_time(store: Store) -> None:
    await at_once(32, lambda _number: store.decide_account(NODE, issue(2)))
    nonces = [nonce for payment in await store.payments_of(NODE) for nonce in payment.nonces]
    assert nonces == list(range(64))
    assert (await store.account(NODE)).next_nonce == 64


async def test_two_processes_that_begin_an_account_add_up(open_again: Open) -> None:
    async with open_again() as one, open_again() as other:
        stores = (one, other)
        await at_once(16, lambda number: stores[number % 2].decide_account(NODE, issue(1)))
        windows = [UsageWindowRecord(f"w{number}", OTHER, requests=1, price=1) for number in range(16)]
        await at_once(16, lambda number: stores[number % 2].settle_usage([windows[number]]))
        assert [payment.nonces.start for payment in await one.payments_of(NODE)] == list(range(16))
        assert (await one.account(NODE)).next_nonce == 16
        assert (await one.account(OTHER)).earned == 16
