"""Ticket parameters that need no storage: the random number behind each is derived from one persisted secret.

An epoch is a generation of random numbers. Redeeming reveals the numbers of all epochs up to one, which are closed
first; the counters of both live in the ticket store, so that no number is used again after its reveal.
"""

import hmac
from dataclasses import dataclass

from tandem.protocol.errors import TicketParamsUnknown, TicketRevealed
from tandem.protocol.messages import TicketLimits
from tandem.protocol.signing import Address, address_bytes
from tandem.protocol.tickets import TicketParams, commitment_to, win_prob_from_odds
from tandem.protocol.units import ceil_div

_REMEMBERED_EPOCHS = 64
"""How far back a payment's epoch is looked for; older ones are expired."""
TICKETS_IN_UNPAID = 2
"""So many tickets are worth no more than may be unpaid."""
_WINNERS_IN_PROMISE = 8
"""So many winners should fit into what the contract promises: before they are redeemed, the node takes no more."""


@dataclass(frozen=True, slots=True)
class Stakes:
    """What tickets are to be worth: one in `odds` wins, and pays `face_value` wei."""

    face_value: int
    odds: int


@dataclass(frozen=True, slots=True)
class TermsPolicy:
    """How the operator lets terms be made. Amounts in wei."""

    odds: int
    """One ticket in so many wins: how lumpy the income may be."""
    lifetime: float
    """Seconds from issue to expiry."""
    gas_percent: int
    """A winner should pay so much that redeeming it costs this part of it."""
    min_face_value: int
    max_face_value: int
    max_unpaid: int
    """Half of it is the most that a ticket is worth on average: a new node is signed its first one once it has earned
    half of that ticket, and must not have to stop before."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """`current` is the one that terms are issued in; every one up to `closed` is revealed or about to be."""

    current: int = 1
    closed: int = 0


def stakes(policy: TermsPolicy, winner_cost: int, promised: int, limits: TicketLimits) -> Stakes:
    """The right stakes now: what a winner pays follows what redeeming it costs, `winner_cost` wei.

    Several winners must fit into what the contract promises to this node (0: that is not known, or nothing yet). What
    the operator does not go below comes before that, and what the orchestrator signs comes before everything: beyond
    its limits there is no income at all.
    """
    ceiling = min(policy.max_face_value, policy.max_unpaid * policy.odds // TICKETS_IN_UNPAID)
    if promised:
        ceiling = min(ceiling, promised // _WINNERS_IN_PROMISE)
    wanted = ceil_div(winner_cost * 100, policy.gas_percent)
    return _within(limits, max(policy.min_face_value, min(wanted, ceiling), 1), policy.odds)


def _within(limits: TicketLimits, face_value: int, odds: int) -> Stakes:
    # the threshold is rounded down, which may take a wei off what a ticket is worth
    least = max(1, min(limits.min_expected_value + 1, limits.max_expected_value))
    odds = max(1, min(odds, limits.max_face_value // least))
    most = min(limits.max_face_value, limits.max_expected_value * odds)
    return Stakes(max(least * odds, min(face_value, most)), odds)


def moved(stakes: Stakes, right: Stakes) -> bool:
    """Whether terms with these stakes should make way for others: not at each wobble, but at more than half."""
    if stakes.odds != right.odds:
        return True
    low, high = sorted((stakes.face_value, right.face_value))
    return high * 2 > low * 3


def issue(stakes: Stakes, secret: bytes, sender: Address, recipient: Address, epoch: int, expiry: int) -> TicketParams:
    """The terms under which `sender` may sign tickets in this epoch."""
    face_value, win_prob = stakes.face_value, win_prob_from_odds(stakes.odds)
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
