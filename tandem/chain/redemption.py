"""What came of redeeming winners, read from the mined transaction."""

from dataclasses import dataclass

from tandem.chain.broker import TicketBroker
from tandem.chain.events import BatchRefused, Refusal, TicketRefused, TicketsRedeemed, decode_event
from tandem.chain.rpc import chain_errors
from tandem.chain.transactions import Mined


@dataclass(frozen=True, slots=True)
class PaidTickets:
    """Tickets of one set of parameters that were paid, `amount` wei in all."""

    params_hash: bytes
    sender_nonces: tuple[int, ...]
    amount: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A ticket that was not paid, or a whole batch (`sender_nonce` None). It is as redeemable as before."""

    params_hash: bytes
    sender_nonce: int | None
    reason: Refusal


@dataclass(frozen=True, slots=True)
class RedemptionResult:
    """What a mined redemption did. Every ticket of it is in `paid` or in `not_paid`; amounts in wei."""

    tx_hash: bytes
    paid: tuple[PaidTickets, ...]
    not_paid: tuple[Refused, ...]
    amount_wei: int
    gas_cost_wei: int


def redemption_result(broker: TicketBroker, mined: Mined) -> RedemptionResult:
    """Read a mined redemption, also one that was found again after a restart. Raises `ChainUnavailable`."""
    with chain_errors("reading a receipt"):
        events = [decode_event(log) for log in mined.logs if log["address"] == broker.address]
    paid = tuple(
        PaidTickets(event.params_hash, event.sender_nonces, event.amount)
        for event in events
        if isinstance(event, TicketsRedeemed)
    )
    not_paid = tuple(
        Refused(event.params_hash, event.sender_nonce if isinstance(event, TicketRefused) else None, event.reason)
        for event in events
        if isinstance(event, TicketRefused | BatchRefused)
    )
    return RedemptionResult(
        mined.transaction.tx_hash, paid, not_paid, sum(tickets.amount for tickets in paid), mined.gas_cost
    )
