"""Which winners to redeem, and when: gas is shared by a batch, and waiting is only safe while the sender stays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from node.core.acceptance import Backing
from node.core.gas import GasPrice
from tandem.protocol.signing import Address
from tandem.protocol.tickets import PAYMENT_WINNERS, Ticket, TicketParams
from tandem.protocol.units import format_amount

_GAS_TRANSACTION = 40_000
_GAS_SET = 40_000
GAS_TICKET = 8_000
"""Gas of a redemption, rounded up: the contract uses 75,000 for one winner, 434,000 for fifty under one set of
parameters, 154,000 for three under three."""
_LEAST_URGENT_SECONDS = 300.0
"""That long it may take to agree on other terms, and to be mined."""
_SETBACK_SECONDS = 600.0
_MAX_SETBACK_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class WinningSet:
    """Unredeemed winners under one set of parameters, which are revealed together."""

    params: TicketParams
    epoch: int
    tickets: tuple[Ticket, ...]
    signers: frozenset[Address] = frozenset()
    """Who signed under these parameters, as far as that is another key than the sender's."""

    @property
    def value(self) -> int:
        """Wei."""
        return self.params.face_value * len(self.tickets)

    @property
    def gas(self) -> int:
        """What it adds to a transaction, about."""
        return _GAS_SET + GAS_TICKET * len(self.tickets)


@dataclass(frozen=True, slots=True)
class RedemptionPolicy:
    gas_percent: int
    """A redemption is worth it once gas is at most so many percent of what it pays."""
    urgent_before: float
    """Seconds before expiry from which on winners are redeemed whatever the gas, if they pay for it at all; of short
    lives at most the last quarter."""
    max_fee_per_gas: int | None = None
    """Wei: nothing is sent while a unit of gas costs more."""
    max_tickets: int = 200
    """In one transaction."""
    max_gas: int = 5_000_000
    """Of one transaction: a part of a block that is not hard to get."""
    spike_percent: int = 150
    """Gas that costs more than so many percent of the usual is waited out."""
    poll: float = 1.0
    """Seconds between looks at a transaction that is under way."""


@dataclass(frozen=True, slots=True)
class Setback:
    """A sender's winners were not paid for want of funds, or a transaction was reverted: gas was spent on nothing.

    They are tried again once more is `available` than was seen at the least since, or when time has passed.
    """

    least: int
    until: float
    seconds: float = _SETBACK_SECONDS

    @classmethod
    def after(cls, earlier: "Setback | None", available: int, now: float) -> "Setback":
        """Twice as long as the one before."""
        seconds = min(2 * earlier.seconds, _MAX_SETBACK_SECONDS) if earlier else _SETBACK_SECONDS
        return cls(available, now + seconds, seconds)

    def see(self, available: int) -> "Setback":
        return replace(self, least=min(self.least, available))

    def is_over(self, available: int, now: float) -> bool:
        return now >= self.until or available > self.least


@dataclass(frozen=True, slots=True)
class Market:
    """What a decision to redeem one sender's winners rests on. Amounts in wei."""

    backing: Backing
    gas: GasPrice
    now: float
    in_flight: int = 0
    """Face value of the sender's winners in transactions under way, which are paid first."""


def gas_of(sets: Sequence[WinningSet]) -> int:
    """Gas that redeeming them in one transaction takes, about."""
    return _GAS_TRANSACTION + sum(winning.gas for winning in sets)


def plan(sets: Iterable[WinningSet], market: Market, policy: RedemptionPolicy) -> tuple[WinningSet, ...]:
    """What to redeem now in one transaction, soonest expiry first; empty: better to wait.

    Only what the contract can pay at the moment is in it, since an unfunded winner would cost gas and stay where it is,
    and no set that pays less than the gas it adds.
    """
    price = market.gas.current
    waiting = sorted(sets, key=lambda winning: winning.params.expiry)
    payable = _payable(waiting, market, policy)
    value, cost = sum(winning.value for winning in payable), gas_of(payable) * price
    if value <= cost:
        return ()
    worth_it = cost * 100 <= value * policy.gas_percent and price * 100 <= market.gas.usual * policy.spike_percent
    return payable if worth_it or _urgent(waiting, market, policy) else ()


def waits_for_gas(sets: Sequence[WinningSet], market: Market, policy: RedemptionPolicy) -> str:
    """Why winners wait that would be redeemed if gas cost what is usual; empty if it is not for that."""
    price, usual, cap = market.gas.current, market.gas.usual, policy.max_fee_per_gas
    if cap is not None and sets and price > cap:
        return (
            f"a unit of gas costs {format_amount(price)} and max_fee_per_gas is {format_amount(cap)}: winners wait "
            "until it costs less, or that is raised"
        )
    at_usual = replace(market, gas=replace(market.gas, current=usual))
    if price <= usual or plan(sets, market, policy) or not plan(sets, at_usual, policy):
        return ""
    return (
        f"a unit of gas costs {format_amount(price)}, usually {format_amount(usual)}: winners wait until it costs "
        "less, or they are about to expire"
    )


@dataclass(slots=True)
class _Room:
    """What a transaction still has room for."""

    tickets: int
    gas: int
    funds: int
    chosen: list[WinningSet] = field(default_factory=list)

    def add(self, winning: WinningSet, price: int) -> None:
        face_value = winning.params.face_value
        by_gas = (self.gas - _GAS_SET) // GAS_TICKET
        count = min(len(winning.tickets), self.tickets, self.funds // face_value, by_gas)
        part = replace(winning, tickets=winning.tickets[: max(0, count)])
        if count > 0 and part.value > part.gas * price:
            self.chosen.append(part)
            self.tickets -= count
            self.gas -= part.gas
            self.funds -= part.value


def _payable(sets: Iterable[WinningSet], market: Market, policy: RedemptionPolicy) -> tuple[WinningSet, ...]:
    funds = market.backing.available - market.in_flight
    room = _Room(policy.max_tickets, policy.max_gas - _GAS_TRANSACTION, funds)
    for winning in sets:
        room.add(winning, market.gas.current)
    return tuple(room.chosen)


def _urgent(sets: Sequence[WinningSet], market: Market, policy: RedemptionPolicy) -> bool:
    # Terms live for half the unlock period at most, which is what separates `good_until` from the reading.
    last_part = max(_LEAST_URGENT_SECONDS, (market.backing.good_until - market.now) / 8)
    soon = market.now + min(policy.urgent_before, last_part)
    expiring = any(winning.params.expiry <= soon for winning in sets)
    # Without room for another payment the node can take no tickets, and so no work, until these are paid. It is how a
    # sender that runs dry shows too: others may empty its deposit, but what is promised to this node is its own.
    more = PAYMENT_WINNERS * max(winning.params.face_value for winning in sets)
    full = sum(winning.value for winning in sets) + market.in_flight + more > market.backing.promised
    revoked = any(market.backing.is_revoked(signer) for winning in sets for signer in winning.signers)
    return expiring or full or market.backing.leaving or revoked
