"""Payments: checked, written down, and only then acknowledged; in the order in which they came."""

import asyncio
import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass

from node.core.acceptance import AcceptedPayment, CheckedPayment, Till, check, fund
from node.ports.tickets import TicketStore
from node.service.backing import BackingView
from node.service.books import Books
from node.service.link import Link
from node.service.terms import Terms
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, TicketError, TicketUnfunded
from tandem.protocol.messages import Payment, PaymentReceipt, TicketTermsReply
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1024
_EXPIRY_MARGIN = 60.0
"""Seconds that a ticket must still live, so that a winner can be redeemed."""
_CHAIN_SECONDS = 5.0
"""Between attempts to reach the chain about a payment."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom tickets are to pay, and where."""

    recipient: Address
    domain: Domain


class Payments:
    def __init__(
        self,
        store: TicketStore,
        books: Books,
        view: BackingView,
        terms: Terms,
        link: Link,
        clock: Clock,
        account: Account,
    ) -> None:
        self._store = store
        self._books = books
        self._view = view
        self._terms = terms
        self._link = link
        self._clock = clock
        self._account = account
        self._queue: asyncio.Queue[tuple[Address, Payment | TicketTermsReply]] = asyncio.Queue(_MAX_QUEUED)

    def receive(self, sender: Address, message: Payment | TicketTermsReply) -> None:
        """Queues a message; the reply to terms stays behind the payments that came before it.

        What finds no room is dropped: an unanswered payment is said again.
        """
        try:
            self._queue.put_nowait((sender, message))
        except asyncio.QueueFull:
            log.event(logger, "payments_dropped", level=logging.WARNING, queued=_MAX_QUEUED)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            sender, message = await self._queue.get()
            if isinstance(message, TicketTermsReply):
                self._terms.reply(message)
            else:
                self._link.send(await self._answer(sender, message))

    async def _answer(self, sender: Address, payment: Payment) -> PaymentReceipt:
        digest = hashlib.sha256(payment.model_dump_json().encode()).digest()
        known = await self._store.receipt(sender, payment.id, digest)
        while known is None:
            try:
                known = await self._judge(sender, payment, digest)
            except (ChainUnavailable, ChainError) as error:
                # No answer is better than a wrong one: the tickets may be good, and refusing them cannot be undone.
                log.event(logger, "payment_delayed", level=logging.WARNING, payment=payment.id, detail=error.detail)
                await self._clock.sleep(_CHAIN_SECONDS)
        return known

    async def _judge(self, sender: Address, payment: Payment, digest: bytes) -> PaymentReceipt:
        try:
            checked = await self._check(sender, payment)
            await self._take(checked, digest)
        except TicketError as error:
            receipt = PaymentReceipt(id=payment.id, accepted=False, code=error.code, detail=error.detail[:4096])
            await self._store.refuse(sender, receipt, digest)
            self._log(payment, error)
            return receipt
        self._log(payment, None, len(checked.winners))
        return PaymentReceipt(id=payment.id, accepted=True)

    async def _check(self, sender: Address, payment: Payment) -> CheckedPayment:
        nonces = [ticket.sender_nonce for ticket in payment.tickets]
        till = Till(
            domain=self._account.domain,
            secret=self._store.secret,
            sender=sender,
            recipient=self._account.recipient,
            epochs=await self._store.epochs(),
            now=self._clock.now(),
            expiry_margin=_EXPIRY_MARGIN,
        )
        seen = await self._store.seen(payment.params.hash(), nonces)
        # Recovering the signers of a hundred tickets takes ten milliseconds and more, half of it without Python's lock.
        return await asyncio.to_thread(check, payment, till, seen)

    async def _take(self, checked: CheckedPayment, digest: bytes) -> None:
        params = checked.params
        outstanding = await self._store.outstanding(params.sender, self._clock.now())
        try:
            accepted = fund(checked, await self._view.for_tickets(params, checked.signers), outstanding)
        except TicketError:  # by a reading that may be old: nothing is refused but by a new one
            accepted = await self._fund_anew(checked, outstanding)
        await self._books.take(accepted, digest)

    async def _fund_anew(self, checked: CheckedPayment, outstanding: int) -> AcceptedPayment:
        sender = checked.params.sender
        backing = await self._view.read(sender, checked.signers)
        try:
            return fund(checked, backing, outstanding)
        except TicketUnfunded as error:
            in_flight = (await self._store.in_flight()).get(sender, 0)
            # A redemption that is mined, and not deep enough to count, has taken its part of the promise already.
            with suppress(TicketUnfunded):
                fund(checked, backing, outstanding - in_flight)
                raise ChainUnavailable(f"expected the redemptions under way to be final first: {error}") from error
            raise

    @staticmethod
    def _log(payment: Payment, error: TicketError | None, winners: int = 0) -> None:
        log.event(
            logger,
            "payment",
            payment=payment.id,
            tickets=len(payment.tickets),
            winners=winners,
            outcome=error.code if error else "taken",
            detail=error.detail if error else None,
        )
