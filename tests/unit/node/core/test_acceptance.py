import pytest

from node.core.acceptance import backed, check, fund
from node.core.terms import Epochs, recipient_rand
from tandem.protocol.errors import (
    TicketExpired,
    TicketParamsUnknown,
    TicketReplayed,
    TicketRevealed,
    TicketSignatureInvalid,
    TicketUnfunded,
)
from tandem.protocol.signing import CURVE_ORDER
from tandem.protocol.tickets import Ticket, wins
from tests.fixtures.node import ALWAYS, NODE, SECRET, SENDER, SIGNER, backing, payment, terms, till


def test_good_tickets_are_taken_with_their_outcome() -> None:
    params = terms()
    checked = check(payment(params, range(40)), till(), frozenset())
    rand = recipient_rand(SECRET, params, 1)
    assert checked.winners == {ticket.sender_nonce for ticket in checked.tickets if wins(ticket, rand)}
    assert 0 < len(checked.winners) < 40
    assert checked.value == 40_000
    assert fund(checked, backing(), 0).checked == checked


def test_tickets_for_or_by_another_are_unknown() -> None:
    params = terms()
    for changes in ({"sender": NODE.address}, {"recipient": SENDER.address}):
        with pytest.raises(TicketParamsUnknown):
            check(payment(params.model_copy(update=changes)), till(), frozenset())


def test_tickets_near_their_expiry_are_refused() -> None:
    params = terms()
    check(payment(params), till(now=params.expiry - 61), frozenset())
    with pytest.raises(TicketExpired):
        check(payment(params), till(now=params.expiry - 60), frozenset())


def test_a_revealed_commitment_takes_no_tickets() -> None:
    with pytest.raises(TicketRevealed):
        check(payment(terms(epoch=2)), till(Epochs(current=3, closed=2)), frozenset())


@pytest.mark.parametrize(("nonces", "seen"), [([1, 2, 1], set()), ([1, 2], {2})])
def test_a_nonce_counts_once(nonces: list[int], seen: set[int]) -> None:
    with pytest.raises(TicketReplayed):
        check(payment(terms(), nonces), till(), seen)


def test_a_second_encoding_of_a_signature_is_refused() -> None:
    good = payment(terms(), [1])
    raw = good.tickets[0].signature
    s = int.from_bytes(raw[32:]) & (2**255 - 1)
    second = raw[:32] + (CURVE_ORDER - s).to_bytes(32)
    forged = good.model_copy(update={"tickets": (good.tickets[0].model_copy(update={"signature": second}),)})
    with pytest.raises(TicketSignatureInvalid):
        fund(check(forged, till(), frozenset()), backing(), 0)


def test_a_payment_has_one_signer() -> None:
    params = terms()
    both = payment(params, [1]).tickets + payment(params, [2], key=SENDER).tickets
    with pytest.raises(TicketSignatureInvalid, match="one signer"):
        check(payment(params).model_copy(update={"tickets": both}), till(), frozenset())


def test_tickets_of_another_contract_are_not_by_the_signer() -> None:
    ticket = payment(terms(), [1]).tickets[0]
    moved = payment(terms(), [2]).model_copy(update={"tickets": (ticket.model_copy(update={"sender_nonce": 2}),)})
    with pytest.raises(TicketSignatureInvalid):
        fund(check(moved, till(), frozenset()), backing(), 0)


def test_the_sender_itself_may_sign() -> None:
    fund(check(payment(terms(), key=SENDER), till(), frozenset()), backing(signers={}), 0)


@pytest.mark.parametrize("until", [None, 0, terms().expiry - 1])
def test_a_signer_must_be_good_until_the_tickets_expire(until: int | None) -> None:
    signers = {} if until is None else {SIGNER.address: until}
    with pytest.raises(TicketSignatureInvalid):
        fund(check(payment(terms()), till(), frozenset()), backing(signers=signers), 0)


def test_winners_are_taken_up_to_what_is_promised() -> None:
    checked = check(payment(terms(ALWAYS), range(3)), till(), frozenset())
    fund(checked, backing(promised=5000), 2000)
    with pytest.raises(TicketUnfunded):
        fund(checked, backing(promised=5000), 2001)


@pytest.mark.parametrize(("count", "room"), [(1, 1), (3, 3), (20, 13)])
def test_whether_tickets_are_taken_does_not_tell_how_many_won(count: int, room: int) -> None:
    """Else a sender that leaves little room would have all payments refused that win more than it likes."""
    params = terms()
    nonces, won = range(200), check(payment(params, range(200)), till(), frozenset()).winners
    for sent in (sorted(won)[: min(count, room)], sorted(set(nonces) - won)):
        some = (sent + sorted(set(nonces) - won))[:count]
        checked = check(payment(params, some), till(), frozenset())
        fund(checked, backing(promised=4000 * room + 1), 1)
        with pytest.raises(TicketUnfunded):
            fund(checked, backing(promised=4000 * room), 1)


def test_more_winners_than_are_likely_need_room_too() -> None:
    won = sorted(check(payment(terms(), range(200)), till(), frozenset()).winners)[:20]
    checked = check(payment(terms(), won), till(), frozenset())
    fund(checked, backing(promised=4000 * 20), 0)
    with pytest.raises(TicketUnfunded):
        fund(checked, backing(promised=4000 * 20 - 1), 0)


def test_a_reading_backs_tickets_that_expire_before_anything_can_be_taken_back() -> None:
    params = terms()
    assert backed(params, backing(good_until=float(params.expiry)))
    assert not backed(params, backing(good_until=params.expiry - 1.0))


def test_an_altered_ticket_keeps_its_own_outcome() -> None:
    params = terms()
    checked = check(payment(params, [7]), till(), frozenset())
    assert checked.tickets == (
        Ticket(params=params, sender_nonce=7, signature=payment(params, [7]).tickets[0].signature),
    )
