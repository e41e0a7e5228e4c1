from dataclasses import replace

from node.core.acceptance import Backing
from node.core.gas import GasPrice
from node.core.redemption import Market, RedemptionPolicy, Setback, WinningSet, gas_of, plan, waits_for_gas
from node.core.terms import Stakes
from tandem.protocol.tickets import PAYMENT_WINNERS, Ticket
from tandem.protocol.units import format_amount
from tests.fixtures.node import NOW, SIGNER, STAKES, backing, terms

POLICY = RedemptionPolicy(gas_percent=10, urgent_before=600, max_tickets=5)
FACE = STAKES.face_value


def winners(count: int, now: float = NOW, stakes: Stakes = STAKES) -> WinningSet:
    params = terms(stakes, now=now)
    tickets = (Ticket(params=params, sender_nonce=nonce, signature=bytes(64)) for nonce in range(count))
    return WinningSet(params, 1, tuple(tickets))


def big(count: int, now: float = NOW) -> WinningSet:
    return winners(count, now, Stakes(4 * 10**15, 4))


def gas_price_for(percent: float, *sets: WinningSet) -> int:
    return int(sum(won.value for won in sets) * percent / 100 / gas_of(sets))


def market(
    gas: int = 0, backed: Backing | None = None, now: float = NOW, *, usual: int | None = None, in_flight: int = 0
) -> Market:
    return Market(backed or backing(), GasPrice(gas, gas if usual is None else usual, now), now, in_flight)


def test_nothing_is_redeemed_without_winners() -> None:
    assert plan([], market(), POLICY) == ()


def test_winners_wait_until_gas_is_a_small_part_of_them() -> None:
    won = big(3)
    assert plan([won], market(gas_price_for(11, won)), POLICY) == ()
    assert plan([won], market(gas_price_for(9, won)), POLICY) == (won,)


def test_expiry_hurries_but_never_at_a_loss() -> None:
    won = big(2)
    late = won.params.expiry - 599.0
    assert plan([won], market(gas_price_for(90, won), now=late), POLICY) == (won,)
    assert plan([won], market(gas_price_for(101, won), now=late), POLICY) == ()


def test_short_lives_are_urgent_in_their_last_quarter_only() -> None:
    won = big(2)
    price, hour = gas_price_for(90, won), 3600.0
    patient = RedemptionPolicy(gas_percent=10, urgent_before=hour)
    for left, is_urgent in ((449.0, True), (451.0, False)):
        now = won.params.expiry - left
        assert bool(plan([won], market(price, backing(good_until=now + hour), now), patient)) is is_urgent


def test_a_sender_that_leaves_hurries() -> None:
    won = big(2)
    assert plan([won], market(gas_price_for(90, won), backing(leaving=True)), POLICY) == (won,)


def test_only_what_a_revoked_signer_signed_hurries() -> None:
    won, price = big(2), gas_price_for(90, big(2))
    revoked = market(price, backing(signers={SIGNER.address: int(NOW) + 3600}))
    assert plan([won], revoked, POLICY) == ()
    by_signer = replace(won, signers=frozenset({SIGNER.address}))
    assert plan([by_signer], revoked, POLICY) == (by_signer,)
    assert plan([by_signer], market(price), POLICY) == ()


def test_a_promise_that_is_used_up_hurries() -> None:
    won = big(2)
    full = won.value + PAYMENT_WINNERS * won.params.face_value - 1
    assert plan([won], market(gas_price_for(90, won), backing(full, available=10**18)), POLICY) == (won,)
    assert plan([won], market(gas_price_for(90, won), backing(full + 1, available=10**18)), POLICY) == ()


def test_only_what_is_funded_is_redeemed() -> None:
    (planned,) = plan([winners(3)], market(0, backing(available=2 * FACE + 1)), POLICY)
    assert [ticket.sender_nonce for ticket in planned.tickets] == [0, 1]
    assert plan([winners(3)], market(0, backing(available=FACE - 1)), POLICY) == ()


def test_a_transaction_holds_so_many_soonest_expiry_first() -> None:
    first, second = winners(3), winners(4, NOW + 100)
    planned = plan([second, first], market(), POLICY)
    assert [(won.params.expiry, len(won.tickets)) for won in planned] == [
        (first.params.expiry, 3),
        (second.params.expiry, 2),
    ]


def test_a_spike_of_gas_is_waited_out() -> None:
    won = big(3)
    price = gas_price_for(9, won)
    assert plan([won], market(price, usual=price * 2 // 3 + 1), POLICY) == (won,)
    assert plan([won], market(price, usual=price * 2 // 3 - 1), POLICY) == ()
    assert plan([won], market(price, backing(leaving=True), usual=1), POLICY) == (won,)


def test_a_set_that_does_not_pay_for_its_own_gas_stays_behind() -> None:
    poor, rich = winners(1), big(3)
    assert plan([poor, rich], market(gas_price_for(5, rich)), POLICY) == (rich,)


def test_a_transaction_takes_so_much_gas() -> None:
    few = RedemptionPolicy(gas_percent=10, urgent_before=600, max_gas=40_000 + 40_000 + 3 * 8000)
    first, second = winners(2), winners(4, NOW + 100)
    assert [len(won.tickets) for won in plan([second], market(), few)] == [3]
    assert plan([first, second], market(), few) == (first,)


def test_what_is_in_flight_is_paid_first() -> None:
    (planned,) = plan([winners(3)], market(0, backing(available=3 * FACE), in_flight=2 * FACE), POLICY)
    assert len(planned.tickets) == 1


def test_what_is_in_flight_uses_the_promise_up_too() -> None:
    won = big(2)
    price, promised = gas_price_for(90, won), backing(4 * won.value, available=10**18)
    assert plan([won], market(price, promised), POLICY) == ()
    assert plan([won], market(price, promised, in_flight=won.value), POLICY) == (won,)


def test_after_a_setback_winners_wait_for_funds_or_time() -> None:
    setback = Setback.after(None, 100, NOW)
    assert not setback.is_over(100, NOW + 599)
    assert setback.is_over(101, NOW)
    assert setback.is_over(100, NOW + 600)
    assert setback.see(40).is_over(41, NOW)
    assert not setback.see(40).see(60).is_over(40, NOW)


def test_each_setback_lasts_twice_as_long_up_to_a_day() -> None:
    setback = Setback.after(None, 100, NOW)
    assert Setback.after(setback, 100, NOW).until == NOW + 1200
    for _ in range(20):
        setback = Setback.after(setback, 100, NOW)
    assert setback.until == NOW + 86_400


def test_it_is_said_that_winners_wait_for_gas_and_what_it_costs() -> None:
    won = big(3)
    usual, dear = gas_price_for(9, won), gas_price_for(40, won)
    spike = market(dear, usual=usual)
    assert plan([won], spike, POLICY) == ()
    said = waits_for_gas([won], spike, POLICY)
    assert format_amount(dear) in said
    assert format_amount(usual) in said
    assert waits_for_gas([won], market(usual), POLICY) == ""
    assert waits_for_gas([], spike, POLICY) == ""
    assert waits_for_gas([big(1)], market(dear), POLICY) == "", "it waits for others to share gas with"
    capped = replace(POLICY, max_fee_per_gas=usual - 1)
    said = waits_for_gas([won], market(usual), capped)
    assert f"max_fee_per_gas is {format_amount(usual - 1)}" in said
    assert waits_for_gas([], market(usual), capped) == ""
