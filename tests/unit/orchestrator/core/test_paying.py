from dataclasses import replace

import pytest

from orchestrator.core.paying import (
    MOST_TICKETS_AT_ONCE,
    PayingPolicy,
    adopt,
    agree,
    allowance,
    overdrawn,
    pay,
    unpaid,
)
from orchestrator.core.records import AccountChanges, AccountRecord
from orchestrator.core.session import Identity
from tandem.protocol.errors import TicketError, TicketExpired, TicketParamsUnknown
from tandem.protocol.tickets import PAYMENT_WINNERS, TicketParams
from tests.fixtures.accounts import applied
from tests.fixtures.protocol import DOMAIN, NODE, ORIGIN, SENDER, SIGNER, STRANGER, ticket_params

NOW = 1_800_000_000.0
IDENTITY = Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
POLICY = PayingPolicy(max_ahead=1000, max_face_value=50_000)
TERMS = ticket_params(face_value=1000, odds=10)
ACCOUNT = AccountRecord(node=NODE.address, params=TERMS)
WORTH = TERMS.expected_value()


def test_tickets_cover_what_is_due_and_less_than_one_more() -> None:
    due = replace(ACCOUNT, earned=3 * WORTH + 1)
    changes = pay(due, IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    assert [ticket.sender_nonce for ticket in changes.payment.tickets] == [0, 1, 2, 3]
    assert changes.payment.value == 4 * WORTH
    assert pay(applied(due, changes), IDENTITY, POLICY, NOW).payment is None


def test_a_ticket_ahead_of_work_waits_until_the_node_has_earned_as_much() -> None:
    """Or one address after another would be signed a whole ticket for next to nothing."""
    assert pay(replace(ACCOUNT, earned=44), IDENTITY, POLICY, NOW).payment is None  # 56 ahead of 10 + 44
    assert unpaid(replace(ACCOUNT, earned=44), POLICY) == 44
    changes = pay(replace(ACCOUNT, earned=45), IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    assert changes.payment.value == WORTH
    small = replace(ACCOUNT, earned=1, params=ticket_params(face_value=10, odds=1))
    assert pay(small, IDENTITY, POLICY, NOW).payment is not None  # within a hundredth of what may be ahead


def test_tickets_that_are_whole_do_not_wait() -> None:
    refused = replace(ACCOUNT, earned=WORTH, issued=WORTH, refused=WORTH, next_nonce=1)
    changes = pay(refused, IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    assert changes.payment.value == WORTH


@pytest.mark.parametrize("earned", [45, 100, 400, 10**6])
def test_a_first_payment_may_be_refused_whole_however_little_was_earned(earned: int) -> None:
    account = replace(ACCOUNT, earned=earned)
    changes = pay(account, IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    paid = applied(account, changes)
    refused = replace(paid, refused=changes.payment.value)
    assert overdrawn(refused, POLICY) == (changes.payment.value > POLICY.max_ahead + paid.issued // 100)
    assert allowance(replace(ACCOUNT, earned=1), POLICY) == 12


@pytest.mark.parametrize(("odds", "tickets"), [(1, PAYMENT_WINNERS), (10, 10), (500, MOST_TICKETS_AT_ONCE)])
def test_a_payment_is_bounded(odds: int, tickets: int) -> None:
    terms = ticket_params(face_value=1000, odds=odds)
    changes = pay(replace(ACCOUNT, params=terms, earned=10**9), IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    assert len(changes.payment.tickets) == tickets


def test_without_terms_that_live_nothing_is_signed() -> None:
    due = replace(ACCOUNT, earned=WORTH)
    assert pay(replace(due, params=None), IDENTITY, POLICY, NOW).payment is None
    assert pay(due, IDENTITY, POLICY, TERMS.expiry - POLICY.min_lifetime).payment is not None
    assert pay(due, IDENTITY, POLICY, TERMS.expiry - POLICY.min_lifetime + 1).payment is None


def test_the_last_nonce_is_the_last() -> None:
    last = replace(ACCOUNT, earned=10 * WORTH, next_nonce=2**32 - 2)
    changes = pay(last, IDENTITY, POLICY, NOW)
    assert changes.payment is not None
    assert [ticket.sender_nonce for ticket in changes.payment.tickets] == [2**32 - 2, 2**32 - 1]
    assert pay(applied(last, changes), IDENTITY, POLICY, NOW).payment is None


def test_no_nonce_comes_twice_even_if_old_terms_come_back() -> None:
    other = ticket_params(face_value=1000, odds=10, commitment=b"x" * 32)
    account, signed = replace(ACCOUNT, params=None), set()
    for params in (TERMS, other, TERMS, TERMS):
        account = applied(account, adopt(account, params))
        account = replace(account, earned=account.earned + WORTH)
        changes = pay(account, IDENTITY, POLICY, NOW)
        assert changes.payment is not None
        account = applied(account, changes)
        signed.add((params.commitment, changes.payment.tickets[0].sender_nonce))
    assert len(signed) == 4


def test_refused_tickets_are_made_good_within_bounds() -> None:
    paid = replace(ACCOUNT, earned=2000, issued=2000)
    assert unpaid(paid, POLICY) == 0
    assert unpaid(replace(paid, refused=300), POLICY) == 300
    assert allowance(paid, POLICY) == POLICY.max_ahead + 20
    assert unpaid(replace(paid, refused=1500), POLICY) == POLICY.max_ahead + 20
    assert not overdrawn(replace(paid, refused=1020), POLICY)
    assert overdrawn(replace(paid, refused=1021), POLICY)


@pytest.mark.parametrize(
    "stale",
    [
        {"sender": STRANGER.address},
        {"face_value": POLICY.max_face_value + 1, "win_prob": 2**256 // 1000},
        {"face_value": 20_000},
    ],
    ids=["another sender's", "too lumpy", "too much at once"],
)
def test_terms_of_another_day_are_signed_under_only_if_they_would_be_agreed_to_today(stale: dict[str, object]) -> None:
    terms = TicketParams.model_validate(TERMS.model_dump() | stale)
    account = replace(ACCOUNT, earned=10**6, params=terms)
    assert pay(account, IDENTITY, POLICY, NOW) == AccountChanges()


def test_the_limits_are_what_is_agreed_to() -> None:
    limits = replace(POLICY, max_ahead=10**7).limits
    assert (limits.max_face_value, limits.min_expected_value, limits.max_expected_value) == (50_000, 100, 10**7)
    assert POLICY.limits.min_expected_value == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"sender": STRANGER.address}, TicketParamsUnknown),
        ({"recipient": STRANGER.address}, TicketParamsUnknown),
        ({"expiry": int(NOW) + 59}, TicketExpired),
        ({"expiry": 0}, TicketExpired),
        ({"face_value": 0}, TicketError),
        ({"win_prob": 0}, TicketError),
        ({"face_value": 10_100}, TicketError),
        ({"face_value": 50_001, "win_prob": 2**256 // 1000}, TicketError),
        ({"face_value": 2**256 - 1, "win_prob": 2**256 - 1}, TicketError),
    ],
)
def test_terms_outside_the_bounds_are_refused(wrong: dict[str, object], error: type[TicketError]) -> None:
    agree(ACCOUNT, TERMS, IDENTITY, POLICY, NOW)
    terms = TicketParams.model_validate(TERMS.model_dump() | wrong)
    with pytest.raises(error):
        agree(ACCOUNT, terms, IDENTITY, POLICY, NOW)


def test_tickets_too_small_to_be_worth_a_signature_are_refused() -> None:
    policy = replace(POLICY, max_ahead=10**15, max_face_value=10**17)
    agree(ACCOUNT, ticket_params(face_value=11 * 10**9), IDENTITY, policy, NOW)
    with pytest.raises(TicketError, match="worth 10000000000 to"):
        agree(ACCOUNT, ticket_params(face_value=10**9), IDENTITY, policy, NOW)
