"""How much a node is due, and under which terms tickets are signed: pure decisions over its account."""

from dataclasses import dataclass

from orchestrator.core.records import AccountChanges, AccountRecord, PaymentRecord
from orchestrator.core.scheduling import Obstacle, Reason
from orchestrator.core.session import Identity
from tandem.protocol.errors import TicketError, TicketExpired, TicketParamsUnknown
from tandem.protocol.messages import SignedTicket, TicketLimits
from tandem.protocol.tickets import UINT32_MAX, TicketParams, payment_size, sign_ticket
from tandem.protocol.units import format_amount

_MOST_TICKETS_AHEAD = 100_000
MOST_TICKETS_AT_ONCE = 128
"""They are signed while a transaction is open."""
_NONCES = UINT32_MAX + 1
_REFUSABLE = 100
_UNPROVEN = 100
"""An address costs nothing: whoever has one is trusted with this part of `max_ahead`, and with more as it earns."""
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class PayingPolicy:
    """The orchestrator's own bounds."""

    max_ahead: int
    """Wei of expected value that may be signed beyond what a node has earned, refused tickets included: a hundredth
    of it at first, the rest as the node earns."""
    max_face_value: int
    """Wei: what a single winner may pay."""
    min_lifetime: float = 120.0
    """Seconds that terms must still live, when they are agreed and whenever a ticket is signed.

    Well above what nodes ask for, since a refused ticket counts against its node for ever.
    """

    @property
    def limits(self) -> TicketLimits:
        """What tickets are signed for: very small ones would drown the orchestrator in signatures."""
        return TicketLimits(
            max_face_value=self.max_face_value,
            min_expected_value=max(1, self.max_ahead // _MOST_TICKETS_AHEAD),
            max_expected_value=self.max_ahead,
        )


def agree(account: AccountRecord, params: TicketParams, identity: Identity, policy: PayingPolicy, now: float) -> None:
    """Raises a TicketError unless tickets may be signed under these terms."""
    if params.sender != identity.sender or params.recipient != account.node:
        raise TicketParamsUnknown(
            f"expected terms from {identity.sender} to {account.node}, got {params.sender} to {params.recipient}"
        )
    if params.expiry < now + policy.min_lifetime:
        raise TicketExpired(f"expected terms that live {policy.min_lifetime:.0f} s more, got expiry {params.expiry}")
    value, limits = params.expected_value(), policy.limits
    least, most = limits.min_expected_value, limits.max_expected_value
    if not least <= value <= most or params.face_value > limits.max_face_value:
        raise TicketError(
            f"expected tickets worth {least} to {most} wei each with a face value of at most "
            f"{limits.max_face_value}, got {value} and {params.face_value}"
        )


def adopt(account: AccountRecord, params: TicketParams) -> AccountChanges:
    """Puts terms in force. Nonces go on counting: none is ever signed twice, even if a node returns to old terms."""
    return AccountChanges() if account.params == params else AccountChanges(params=params)


def allowance(account: AccountRecord, policy: PayingPolicy) -> int:
    """Wei of expected value that a node may refuse and be paid again.

    `max_ahead`, and 1 % of all that was signed for it: honest refusals of months do not cut a node off, and one that
    refused losing tickets alone, to be paid in winners, would gain no more than that. While a node has earned little
    it is less, and still all of a first payment: what it earned, and what was signed ahead.
    """
    return min(policy.max_ahead, _credit(account, policy) + account.earned) + account.issued // _REFUSABLE


def _credit(account: AccountRecord, policy: PayingPolicy) -> int:
    """Wei that may be signed ahead."""
    return min(policy.max_ahead, policy.max_ahead // _UNPROVEN + account.earned)


def unpaid(account: AccountRecord, policy: PayingPolicy) -> int:
    """Wei earned that no ticket covers. Refused tickets are made good within the allowance, and no further."""
    covered = account.issued - min(account.refused, allowance(account, policy))
    return max(0, account.earned - covered)


def pay(account: AccountRecord, identity: Identity, policy: PayingPolicy, now: float) -> AccountChanges:
    """The next payment to a node: the tickets that what it is due fills, and the one that covers the rest, or nothing.

    The latter waits until what it is worth beyond the rest is within the node's credit, so no more than that is signed
    ahead, whatever came before: terms that the policy or the sender of today would not agree to are signed under no
    more.
    """
    params = account.params
    if params is None or not _agreed(account, params, identity, policy, now):
        return AccountChanges()
    value = params.expected_value()
    most = min(MOST_TICKETS_AT_ONCE, payment_size(params.win_prob), _NONCES - account.next_nonce)
    count, rest = divmod(unpaid(account, policy), value)
    if rest and value - rest <= _credit(account, policy):
        count += 1
    count = min(most, count)
    if count == 0:
        return AccountChanges()
    nonces = range(account.next_nonce, account.next_nonce + count)
    signed = (sign_ticket(identity.key, identity.domain, params, nonce) for nonce in nonces)
    tickets = tuple(
        SignedTicket.model_construct(sender_nonce=ticket.sender_nonce, signature=ticket.signature) for ticket in signed
    )
    return AccountChanges(payment=PaymentRecord(0, account.node, params, nonces, tickets))


def overdrawn(account: AccountRecord, policy: PayingPolicy) -> bool:
    """Whether a node has refused so many tickets that it gets neither work nor tickets any more."""
    return account.refused > allowance(account, policy)


def overdrawn_reason(account: AccountRecord, policy: PayingPolicy) -> Reason | None:
    """For the operators of both sides: what was refused, what may be, and what to do. None unless it is overdrawn."""
    if not overdrawn(account, policy):
        return None
    return Reason(
        Obstacle.OVERDRAWN,
        f"the node has refused tickets worth {format_amount(account.refused)}, and up to "
        f"{format_amount(allowance(account, policy))} are made good: once it takes tickets again, raise "
        f"payment.max_ahead, which is {format_amount(policy.max_ahead)}, and restart the orchestrator",
    )


def unfunded_reason(detail: str) -> Reason:
    """`detail`: as the node put it when it refused tickets."""
    return Reason(
        Obstacle.UNFUNDED,
        f"the node refused tickets for want of backing ({detail[:_SHOWN]}): allocate more of the reserve to it; it "
        "is paid again once its allocation changes or it sends new terms",
    )


def _agreed(account: AccountRecord, params: TicketParams, identity: Identity, policy: PayingPolicy, now: float) -> bool:
    try:
        agree(account, params, identity, policy, now)
    except TicketError:
        return False
    return True
