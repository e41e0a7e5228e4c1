"""Tickets and exposure of the node under any sequence of events, with the real store."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import Till, check, fund
from node.core.admission import Situation, refusal
from node.core.exposure import Balance
from node.core.terms import Stakes, issue
from node.ports.contract import RedemptionOutcome
from tandem.protocol.errors import TicketError
from tandem.protocol.tickets import TicketParams
from tests.fixtures.node import DOMAIN, NODE, NOW, OFFER, PRICE, SENDER, backing, inference, paid, payment

STAKES = Stakes(face_value=2000, odds=2)
LIFETIME = 500.0
FACE = STAKES.face_value
nonces = st.lists(st.integers(0, 12), min_size=1, max_size=4)


class Tickets(RuleBasedStateMachine):
    """A sender that signs whatever it likes, and a node that crashes whenever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.now = NOW
        self.promised = 6 * FACE
        self.issued: list[tuple[TicketParams, int]] = []
        self.taken: dict[tuple[bytes, int], bool] = {}
        self.redeemed: set[tuple[bytes, int]] = set()
        self.revealed: set[bytes] = set()
        self.payments = 0
        self._open()
        self.issue()

    def _open(self) -> None:
        self.store = SqliteTicketStore(self.folder / "tickets.db", NODE.address, DOMAIN)
        self.runner.run(self.store.__aenter__())

    @rule()
    def issue(self) -> None:
        epoch = self.runner.run(self.store.epochs()).current
        expiry = int(self.now + LIFETIME)
        params = issue(STAKES, self.store.secret, SENDER.address, NODE.address, epoch, expiry)
        self.issued.append((params, epoch))

    @rule(which=st.integers(0), numbers=nonces)
    def pay(self, which: int, numbers: list[int]) -> None:
        params, epoch = self.issued[which % len(self.issued)]
        self.payments += 1
        message = payment(params, numbers, number=self.payments)
        epochs = self.runner.run(self.store.epochs())
        till = Till(DOMAIN, self.store.secret, SENDER.address, NODE.address, epochs, self.now, 60.0)
        seen = self.runner.run(self.store.seen(params.hash(), numbers))
        outstanding = self.runner.run(self.store.outstanding(SENDER.address, self.now))
        keys = [(params.hash(), number) for number in numbers]
        try:
            accepted = fund(check(message, till, seen), backing(self.promised), outstanding)
            self.runner.run(self.store.take(accepted, bytes(32)))
        except TicketError:
            return
        assert params.hash() not in self.revealed
        assert epoch > epochs.closed
        assert params.expiry > self.now + 60
        assert len(set(keys)) == len(keys)
        assert not self.taken.keys() & set(keys)
        self.taken |= {key: key[1] in accepted.checked.winners for key in keys}

    @rule()
    def redeem(self) -> None:
        """Rotation, closing, reveal, payment."""
        through = self.runner.run(self.store.rotate()).current - 1
        self.runner.run(self.store.close_epochs(through))
        sets = self.runner.run(self.store.winners(self.now))
        self.revealed |= {params.hash() for params, epoch in self.issued if epoch <= through}
        for won in sets:
            keys = {(won.params.hash(), ticket.sender_nonce) for ticket in won.tickets}
            assert not keys & self.redeemed
            self.redeemed |= keys
        self.runner.run(self.store.settle(RedemptionOutcome(0, paid(sets, self.payments + 1)), self.now))
        self.issue()

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.runner.run(self.store.prune(self.now))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.__aexit__(None, None, None))
        self._open()

    @invariant()
    def nothing_beyond_the_promise_is_outstanding(self) -> None:
        assert self.runner.run(self.store.outstanding(SENDER.address, self.now)) <= self.promised

    @invariant()
    def no_winner_is_lost(self) -> None:
        sets = self.runner.run(self.store.winners(0))
        kept = {(won.params.hash(), ticket.sender_nonce) for won in sets for ticket in won.tickets}
        assert kept == {key for key, won in self.taken.items() if won} - self.redeemed

    @invariant()
    def the_balance_is_what_was_taken(self) -> None:
        balance = self.runner.run(self.store.balance(SENDER.address))
        assert balance.received == len(self.taken) * FACE // STAKES.odds

    def teardown(self) -> None:
        self.runner.run(self.store.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.folder)


Tickets.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestTickets = Tickets.TestCase


@given(st.lists(st.sampled_from(["assign", "accept", "reject", "pay"]), max_size=60))
def test_exposure_is_never_passed(events: list[str]) -> None:
    balance, held = Balance(), 0
    for number, event in enumerate(events, start=1):
        match event:
            case "assign":
                situation = Situation(OFFER, (), balance, held, unjudged=0, count=held // PRICE)
                if refusal(inference(number), situation) is None:
                    held += PRICE
            case "accept" if held:
                balance, held = balance.earn(PRICE), held - PRICE
            case "reject" if held:
                held -= PRICE
            case "pay":
                balance = balance.receive(PRICE // 3)
            case _:
                pass
        assert balance.unpaid + held <= OFFER.max_unpaid
