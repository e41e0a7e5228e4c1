"""Which winners to redeem, and when: gas is shared by a batch, and waiting is only safe while the sender stays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from node.core.acceptance import Backing
from tandem.protocol.tickets import Ticket, TicketParams

_GAS_TRANSACTION = 40_000
_GAS_SET = 40_000
_GAS_TICKET = 8_000
"""Gas of a redemption, rounded up: the contract uses 75,000 for one winner, 434,000 for fifty under one set of
parameters, 154,000 for three under three."""


@dataclass(frozen=True, slots=True)
class WinningSet:
    """Unredeemed winners under one set of parameters, which are revealed together."""

    params: TicketParams
    epoch: int
    tickets: tuple[Ticket, ...]

    @property
    def value(self) -> int:
        """Wei."""
        return self.params.face_value * len(self.tickets)


@dataclass(frozen=True, slots=True)
class RedemptionPolicy:
    gas_percent: int
    """A redemption is worth it once gas is at most so many percent of what it pays."""
    urgent_before: float
    """Seconds before expiry from which on winners are redeemed whatever the gas, if they pay for it at all."""
    max_tickets: int = 200
    """In one transaction."""


def gas_of(sets: Sequence[WinningSet]) -> int:
    """Gas that redeeming them in one transaction takes, about."""
    return _GAS_TRANSACTION + sum(_GAS_SET + _GAS_TICKET * len(winning.tickets) for winning in sets)


def plan(
    sets: Iterable[WinningSet], backing: Backing, gas_price: int, now: float, policy: RedemptionPolicy
) -> tuple[WinningSet, ...]:
    """What to redeem now in one transaction, soonest expiry first; empty: better to wait.

    Only what the contract can pay at the moment is in it: an unfunded winner would cost gas and stay where it is.
    """
    payable = _payable(sorted(sets, key=lambda winning: winning.params.expiry), backing.available, policy.max_tickets)
    value, cost = sum(winning.value for winning in payable), gas_of(payable) * gas_price
    if value <= cost:
        return ()
    worth_it = cost * 100 <= value * policy.gas_percent
    return payable if worth_it or _urgent(payable, backing, now, policy) else ()


def _payable(sets: Iterable[WinningSet], available: int, room: int) -> tuple[WinningSet, ...]:
    chosen = []
    for winning in sets:
        face_value = winning.params.face_value
        count = min(len(winning.tickets), room, available // face_value)
        if count > 0:
            chosen.append(replace(winning, tickets=winning.tickets[:count]))
            room -= count
            available -= count * face_value
    return tuple(chosen)


def _urgent(sets: Sequence[WinningSet], backing: Backing, now: float, policy: RedemptionPolicy) -> bool:
    expiring = any(winning.params.expiry - now <= policy.urgent_before for winning in sets)
    # Without room for one more winner the node can take no tickets, and so no work, until these are paid.
    full = sum(winning.value for winning in sets) + max(winning.params.face_value for winning in sets)
    return expiring or backing.leaving or full > backing.promised
