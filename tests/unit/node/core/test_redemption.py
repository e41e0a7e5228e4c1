from node.core.redemption import RedemptionPolicy, WinningSet, gas_of, plan
from node.core.terms import TermsPolicy
from tandem.protocol.tickets import Ticket
from tests.fixtures.node import NOW, backing, terms

POLICY = RedemptionPolicy(gas_percent=10, urgent_before=600, max_tickets=5)
FACE = 4000


def winners(count: int, now: float = NOW) -> WinningSet:
    params = terms(TermsPolicy(1000, 4, 3600), now=now)
    tickets = (Ticket(params=params, sender_nonce=nonce, signature=bytes(64)) for nonce in range(count))
    return WinningSet(params, 1, tuple(tickets))


def gas_price_for(percent: float, *sets: WinningSet) -> int:
    return int(sum(won.value for won in sets) * percent / 100 / gas_of(sets))


def big(count: int, now: float = NOW) -> WinningSet:
    params = terms(TermsPolicy(10**15, 4, 3600), now=now)
    tickets = (Ticket(params=params, sender_nonce=nonce, signature=bytes(64)) for nonce in range(count))
    return WinningSet(params, 1, tuple(tickets))


def test_nothing_is_redeemed_without_winners() -> None:
    assert plan([], backing(), 0, NOW, POLICY) == ()


def test_winners_wait_until_gas_is_a_small_part_of_them() -> None:
    won = big(3)
    assert plan([won], backing(), gas_price_for(11, won), NOW, POLICY) == ()
    assert plan([won], backing(), gas_price_for(9, won), NOW, POLICY) == (won,)


def test_expiry_hurries_but_never_at_a_loss() -> None:
    won = big(2)
    late = won.params.expiry - 599.0
    assert plan([won], backing(), gas_price_for(90, won), late, POLICY) == (won,)
    assert plan([won], backing(), gas_price_for(101, won), late, POLICY) == ()


def test_a_sender_that_leaves_hurries() -> None:
    won = big(2)
    assert plan([won], backing(leaving=True), gas_price_for(90, won), NOW, POLICY) == (won,)


def test_a_promise_that_is_used_up_hurries() -> None:
    won = big(2)
    full = won.value + won.params.face_value - 1
    assert plan([won], backing(full, available=10**18), gas_price_for(90, won), NOW, POLICY) == (won,)
    assert plan([won], backing(full + 1, available=10**18), gas_price_for(90, won), NOW, POLICY) == ()


def test_only_what_is_funded_is_redeemed() -> None:
    (planned,) = plan([winners(3)], backing(available=2 * FACE + 1), 0, NOW, POLICY)
    assert [ticket.sender_nonce for ticket in planned.tickets] == [0, 1]
    assert plan([winners(3)], backing(available=FACE - 1), 0, NOW, POLICY) == ()


def test_a_transaction_holds_so_many_soonest_expiry_first() -> None:
    first, second = winners(3), winners(4, NOW + 100)
    planned = plan([second, first], backing(), 0, NOW, POLICY)
    assert [(won.params.expiry, len(won.tickets)) for won in planned] == [
        (first.params.expiry, 3),
        (second.params.expiry, 2),
    ]
