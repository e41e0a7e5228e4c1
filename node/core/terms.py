"""Ticket parameters that need no storage: the random number behind each is derived from one persisted secret.

An epoch is a generation of random numbers. Redeeming reveals the numbers of all epochs up to one, which are closed
first; the counters of both live in the ticket store, so that no number is used again after its reveal.
"""

import hmac
from dataclasses import dataclass, replace

from tandem.protocol.errors import TicketParamsUnknown, TicketRevealed
from tandem.protocol.messages import TicketLimits
from tandem.protocol.signing import Address, address_bytes
from tandem.protocol.tickets import TicketParams, commitment_to, win_prob_from_odds

_REMEMBERED_EPOCHS = 64
"""How far back a payment's epoch is looked for; older ones are expired."""


@dataclass(frozen=True, slots=True)
class TermsPolicy:
    """How lumpy the operator lets the income be. A winner pays `expected_value * odds`."""

    expected_value: int
    """Wei that a ticket is worth on average."""
    odds: int
    """One ticket in so many wins."""
    lifetime: float
    """Seconds from issue to expiry."""

    @property
    def face_value(self) -> int:
        return self.expected_value * self.odds


@dataclass(frozen=True, slots=True)
class Epochs:
    """`current` is the one that terms are issued in; every one up to `closed` is revealed or about to be."""

    current: int = 1
    closed: int = 0


def within(policy: TermsPolicy, limits: TicketLimits) -> TermsPolicy:
    """The nearest policy whose tickets the orchestrator signs."""
    # the threshold is rounded down, which may take a wei off what a ticket is worth
    least = min(limits.min_expected_value + 1, limits.max_expected_value)
    value = max(least, min(policy.expected_value, limits.max_expected_value))
    odds = max(1, min(policy.odds, limits.max_face_value // value))
    return replace(policy, expected_value=value, odds=odds)


def issue(
    policy: TermsPolicy, secret: bytes, sender: Address, recipient: Address, epoch: int, expiry: int
) -> TicketParams:
    """The terms under which `sender` may sign tickets in this epoch."""
    face_value, win_prob = policy.face_value, win_prob_from_odds(policy.odds)
    rand = _derive(secret, sender, face_value, win_prob, expiry, epoch)
    return TicketParams(
        sender=sender,
        recipient=recipient,
        face_value=face_value,
        win_prob=win_prob,
        expiry=expiry,
        commitment=commitment_to(rand),
    )


def recipient_rand(secret: bytes, params: TicketParams, epoch: int) -> bytes:
    """The 32 bytes behind the commitment of parameters that were issued in this epoch."""
    return _derive(secret, params.sender, params.face_value, params.win_prob, params.expiry, epoch)


def epoch_of(secret: bytes, params: TicketParams, epochs: Epochs) -> int:
    """The open epoch that the parameters were issued in.

    Only who has the secret can make a commitment that matches, so a match proves that the node issued them. Raises
    TicketRevealed for a closed epoch, TicketParamsUnknown if there is no match.
    """
    for epoch in range(epochs.current, max(0, epochs.closed - _REMEMBERED_EPOCHS), -1):
        if commitment_to(recipient_rand(secret, params, epoch)) != params.commitment:
            continue
        if epoch <= epochs.closed:
            raise TicketRevealed(
                f"expected tickets of epoch {epochs.closed + 1} or later, got epoch {epoch}, whose random number is "
                "revealed; sign under the newest terms"
            )
        return epoch
    raise TicketParamsUnknown(
        f"expected parameters that this node issued, got commitment 0x{params.commitment.hex()}; ask for new terms"
    )


def _derive(secret: bytes, sender: Address, face_value: int, win_prob: int, expiry: int, epoch: int) -> bytes:
    message = b"".join(
        [address_bytes(sender), face_value.to_bytes(32), win_prob.to_bytes(32), expiry.to_bytes(8), epoch.to_bytes(8)]
    )
    return hmac.digest(secret, message, "sha256")
