"""An account over time: whatever a node earns, refuses or changes, both are covered within the agreed bounds."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from orchestrator.core.records import AccountRecord, PaymentRecord
from orchestrator.core.session import Identity
from tandem.protocol.errors import TicketError
from tandem.protocol.tickets import Ticket, TicketParams, recover_signer
from tests.fixtures.accounts import applied
from tests.fixtures.protocol import DOMAIN, NODE, ORIGIN, SENDER, SIGNER, ticket_params

IDENTITY = Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
POLICY = PayingPolicy(max_ahead=10_000, max_face_value=100_000)
NOW = 1_800_000_000.0
LATE = int(NOW) + 600

sound_terms = st.builds(
    ticket_params,
    face_value=st.sampled_from([3000, 90_000]),
    odds=st.just(10),
    expiry=st.just(LATE),
    commitment=st.sampled_from([b"a" * 32, b"b" * 32]),
)
odd_terms = st.builds(
    ticket_params,
    face_value=st.sampled_from([0, 5000, 200_000]),
    odds=st.sampled_from([1, 7]),
    expiry=st.sampled_from([int(NOW) + 30, LATE + 600]),
)


def credit(account: AccountRecord) -> int:
    return min(POLICY.max_ahead, POLICY.max_ahead // 100 + account.earned)


class AccountMachine(RuleBasedStateMachine):
    """A node that earns and is paid, and that may refuse what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.account = AccountRecord(node=NODE.address)
        self.now = NOW
        self.open: list[PaymentRecord] = []
        self.signed: set[tuple[TicketParams, int]] = set()
        self.largest = 0

    @rule(params=sound_terms | sound_terms | odd_terms)
    def issue_terms(self, params: TicketParams) -> None:
        value = params.expected_value()
        fine = 0 < value <= POLICY.max_ahead and params.face_value <= POLICY.max_face_value
        if fine and params.expiry >= self.now + POLICY.min_lifetime:
            agree(self.account, params, IDENTITY, POLICY, self.now)
            self.account = applied(self.account, adopt(self.account, params))
            assert self.account.params == params
        else:
            with pytest.raises(TicketError):
                agree(self.account, params, IDENTITY, POLICY, self.now)

    @rule(price=st.integers(0, 25_000))
    def earn(self, price: int) -> None:
        self.account = replace(self.account, earned=self.account.earned + price)

    @rule()
    def be_paid(self) -> None:
        before = self.account
        changes = pay(before, IDENTITY, POLICY, self.now)
        payment = changes.payment
        if payment is None:
            usable = before.params is not None and before.params.expiry >= self.now + POLICY.min_lifetime
            worth = before.params.expected_value() if before.params is not None else 0
            due = unpaid(before, POLICY)
            assert not usable or due == 0 or worth - due > credit(before)
            return
        assert payment.value - unpaid(before, POLICY) <= credit(before)
        assert payment.nonces == range(before.next_nonce, before.next_nonce + len(payment.tickets))
        self.account = applied(before, changes)
        self.largest = max(self.largest, payment.params.expected_value())
        self.check(payment)
        self.open.append(payment)

    def check(self, payment: PaymentRecord) -> None:
        assert 1 <= len(payment.tickets) <= MOST_TICKETS_AT_ONCE
        assert payment.params.expiry >= self.now + POLICY.min_lifetime
        nonces = {(payment.params, ticket.sender_nonce) for ticket in payment.tickets}
        assert len(nonces) == len(payment.tickets)
        assert not nonces & self.signed
        self.signed |= nonces
        first = payment.tickets[0]
        ticket = Ticket(params=payment.params, sender_nonce=first.sender_nonce, signature=first.signature)
        assert recover_signer(DOMAIN, ticket) == SIGNER.address

    @precondition(lambda self: self.open)
    @rule(accepted=st.booleans())
    def answer(self, accepted: bool) -> None:
        payment = self.open.pop(0)
        if not accepted:
            self.account = replace(self.account, refused=self.account.refused + payment.value)

    @precondition(lambda self: self.account.params is not None)
    @rule(price=st.integers(1, 25_000))
    def refuse_all(self, price: int) -> None:
        """A node that works, takes the tickets and says that it did not."""
        self.earn(price)
        self.be_paid()
        while self.open:
            self.answer(accepted=False)

    @rule(seconds=st.sampled_from([1.0, 30.0, 450.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def never_ahead_by_more_than_agreed(self) -> None:
        ahead = self.account.issued - self.account.earned
        most = min(max(0, self.largest - 1), credit(self.account))
        assert ahead <= most + min(self.account.refused, allowance(self.account, POLICY))

    @invariant()
    def what_is_due_is_what_is_not_covered(self) -> None:
        account = self.account
        due = unpaid(account, POLICY)
        assert due >= 0
        assert account.issued - min(account.refused, allowance(account, POLICY)) + due >= account.earned
        assert overdrawn(account, POLICY) == (account.refused > allowance(account, POLICY))


TestAccounts = AccountMachine.TestCase
TestAccounts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
