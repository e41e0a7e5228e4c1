"""Whether tickets are taken: two steps, so that the chain is asked only about tickets that hold by themselves.

A payment is taken whole or not at all.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from node.core.terms import Epochs, epoch_of, recipient_rand
from tandem.protocol.errors import (
    TicketExpired,
    TicketParamsUnknown,
    TicketReplayed,
    TicketSignatureInvalid,
    TicketUnfunded,
)
from tandem.protocol.messages import Payment
from tandem.protocol.signing import Address
from tandem.protocol.tickets import UINT64_MAX, Domain, Ticket, TicketParams, likely_winners, recover_signer, wins


@dataclass(frozen=True, slots=True)
class Till:
    """What a payment is checked against."""

    domain: Domain
    secret: bytes
    sender: Address
    recipient: Address
    epochs: Epochs
    now: float
    expiry_margin: float
    """Seconds before their expiry from which on tickets are refused: a winner must still be redeemable."""


@dataclass(frozen=True, slots=True)
class CheckedPayment:
    """Tickets that are the node's own, new, unexpired and canonically signed."""

    id: int
    params: TicketParams
    epoch: int
    tickets: tuple[Ticket, ...]
    winners: frozenset[int]
    """The sender nonces that won."""
    signers: frozenset[Address]

    @property
    def value(self) -> int:
        """Wei of expected value."""
        return len(self.tickets) * self.params.expected_value()


@dataclass(frozen=True, slots=True)
class Backing:
    """What the contract promises to this node, as read at one time. Amounts in wei, times in seconds of Unix time."""

    promised: int
    """What this node alone can draw, whatever others do, until `good_until`."""
    available: int
    """What it could draw now, the shared deposit included."""
    leaving: bool
    """The sender is unlocking, or lowering what it promised."""
    good_until: float
    """Nothing that was read can have been taken back before: the unlock period after reading."""
    signers: Mapping[Address, int]
    """Until when each may sign; absent is not at all."""

    def is_revoked(self, signer: Address) -> bool:
        """Whether the signer's tickets are good for a while only."""
        return 0 < self.signers.get(signer, 0) < UINT64_MAX


@dataclass(frozen=True, slots=True)
class AcceptedPayment:
    """Tickets that the node takes; only `fund` makes one."""

    checked: CheckedPayment


def check(payment: Payment, till: Till, seen: AbstractSet[int]) -> CheckedPayment:
    """What holds without asking the chain; raises a TicketError. `seen` are sender nonces used under its params."""
    params = payment.params
    if (params.sender, params.recipient) != (till.sender, till.recipient):
        raise TicketParamsUnknown(
            f"expected tickets from {till.sender} to {till.recipient}, got {params.sender} to {params.recipient}"
        )
    epoch = epoch_of(till.secret, params, till.epochs)
    if params.expiry <= till.now + till.expiry_margin:
        raise TicketExpired(
            f"expected tickets that live {till.expiry_margin:.0f} s more, got expiry {params.expiry} at "
            f"{till.now:.0f}; sign under the newest terms"
        )
    nonces = [ticket.sender_nonce for ticket in payment.tickets]
    if len(set(nonces)) != len(nonces) or not seen.isdisjoint(nonces):
        raise TicketReplayed("expected sender nonces that were not seen before; number each ticket anew")
    tickets = tuple(
        Ticket(params=params, sender_nonce=signed.sender_nonce, signature=signed.signature)
        for signed in payment.tickets
    )
    signers = frozenset(recover_signer(till.domain, ticket) for ticket in tickets)
    if len(signers) > 1:  # the chain is asked about each
        raise TicketSignatureInvalid(f"expected one signer for all tickets of a payment, got {len(signers)}")
    rand = recipient_rand(till.secret, params, epoch)
    winners = frozenset(ticket.sender_nonce for ticket in tickets if wins(ticket, rand))
    return CheckedPayment(payment.id, params, epoch, tickets, winners, signers)


def backed(params: TicketParams, backing: Backing) -> bool:
    """Whether what was read of the chain holds until these tickets expire; else it must be read again."""
    return params.expiry <= backing.good_until


def fund(checked: CheckedPayment, backing: Backing, outstanding: int) -> AcceptedPayment:
    """The second step: signers, and funds for all winners. `outstanding` is the face value of unredeemed winners.

    Room is asked for as many winners as are likely, and not as there are: else the node would answer luck with a
    refusal and misfortune with a receipt, and the sender could tell which it was. Raises TicketSignatureInvalid or
    TicketUnfunded.
    """
    params = checked.params
    for signer in checked.signers:
        if signer != params.sender and backing.signers.get(signer, 0) < params.expiry:
            raise TicketSignatureInvalid(
                f"expected signatures by {params.sender} or a signer it authorises until {params.expiry}, got "
                f"{signer}; authorise it on the contract"
            )
    room = max(likely_winners(len(checked.tickets), params.win_prob), len(checked.winners))
    need = outstanding + params.face_value * room
    if need > backing.promised:
        raise TicketUnfunded(
            f"expected {need} wei allocated to this node on the contract, found {backing.promised}; raise the "
            "allocation, or pay in parts"
        )
    return AcceptedPayment(checked)
