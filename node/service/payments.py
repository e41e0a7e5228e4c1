"""Payments: checked, written down, and only then acknowledged; in the order in which they came.

One that nothing speaks against but a lack of funds is held, and others go on: no answer is better than a wrong one,
since refusing cannot be undone. It is taken once there is room for it, or refused once its tickets have expired or can
win no more.
"""

import asyncio
import hashlib
import logging
from dataclasses import dataclass

from node.core.acceptance import CheckedPayment, Till, check, fund
from node.core.standing import Topic
from node.ports.tickets import TicketStore
from node.service.books import Books
from node.service.link import Link
from node.service.terms import Surroundings, Terms
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable, TicketError, TicketUnfunded
from tandem.protocol.messages import Payment, PaymentReceipt, TicketTermsReply
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1024
_MAX_HELD = 8
"""Payments; an orchestrator leaves two open. Each is checked again at each look."""
_HELD_SECONDS = 15.0
"""Between looks at payments that are held, if nothing is heard of more funds."""
_EXPIRY_MARGIN = 60.0
"""Seconds that a ticket must still live, so that a winner can be redeemed."""
_CHAIN_SECONDS = 5.0
"""Between attempts to reach the chain about a payment."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom tickets are to pay, and where."""

    recipient: Address
    domain: Domain


_Heard = tuple[Address, Payment | TicketTermsReply]


class Payments:
    def __init__(
        self,
        store: TicketStore,
        books: Books,
        around: Surroundings,
        terms: Terms,
        link: Link,
        clock: Clock,
        account: Account,
    ) -> None:
        self._store = store
        self._books = books
        self._view = around.view
        self._terms = terms
        self._link = link
        self._clock = clock
        self._notes = around.notes
        self._account = account
        self._queue: asyncio.Queue[_Heard] = asyncio.Queue(_MAX_QUEUED)
        self._held: dict[tuple[Address, int], Payment] = {}
        """By sender and number."""
        self._behind: list[tuple[Address, TicketTermsReply]] = []
        """Replies that came after payments that are held."""

    def receive(self, sender: Address, message: Payment | TicketTermsReply) -> None:
        """Queues a message; the reply to terms stays behind the payments that came before it.

        What finds no room is dropped: an unanswered payment is said again.
        """
        try:
            self._queue.put_nowait((sender, message))
        except asyncio.QueueFull:
            log.event(logger, "payments_dropped", level=logging.WARNING, queued=_MAX_QUEUED)
        self._view.bell.ring()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._look()
            await self._view.bell.wait(_HELD_SECONDS)

    async def _look(self) -> None:
        """At what is held, and then at what came since."""
        for (sender, _), payment in list(self._held.items()):
            await self._see(sender, payment)
        self._let_pass()
        while not self._queue.empty():
            sender, message = self._queue.get_nowait()
            if isinstance(message, Payment):
                await self._see(sender, message)
            else:
                self._behind.append((sender, message))
            self._let_pass()
        if not self._held:
            self._notes.say(Topic.PAYMENTS)

    def _let_pass(self) -> None:
        """Replies that no payment of their sender is before; of the others the last one counts, which is agreed to."""
        waiting = {sender for sender, _ in self._held}
        for sender, reply in self._behind:
            if sender not in waiting:
                self._terms.reply(reply)
        self._behind = [(sender, reply) for sender, reply in self._behind if sender in waiting][-_MAX_HELD:]

    async def _see(self, sender: Address, payment: Payment) -> None:
        key = sender, payment.id
        try:
            receipt = await self._answer(sender, payment)
        except TicketUnfunded as error:
            self._hold(key, payment, error)
        else:
            if self._held.get(key) == payment:
                del self._held[key]
            self._link.send(receipt)

    def _hold(self, key: tuple[Address, int], payment: Payment, error: TicketUnfunded) -> None:
        if key not in self._held:
            if len(self._held) == _MAX_HELD:  # what is dropped is said again in the next session
                log.event(logger, "payments_dropped", level=logging.WARNING, held=_MAX_HELD)
                return
            log.event(logger, "payment_held", level=logging.WARNING, payment=payment.id, detail=error.detail)
        self._held[key] = payment
        self._notes.say(Topic.PAYMENTS, error.detail)

    async def _answer(self, sender: Address, payment: Payment) -> PaymentReceipt:
        """Raises TicketUnfunded while funds are all that it lacks."""
        digest = hashlib.sha256(payment.model_dump_json().encode()).digest()
        known = await self._store.receipt(sender, payment.id, digest)
        while known is None:
            try:
                known = await self._judge(sender, payment, digest)
            except (ChainUnavailable, ChainError) as error:
                log.event(logger, "payment_delayed", level=logging.WARNING, payment=payment.id, detail=error.detail)
                await self._clock.sleep(_CHAIN_SECONDS)
        return known

    async def _judge(self, sender: Address, payment: Payment, digest: bytes) -> PaymentReceipt:
        try:
            checked = await self._check(sender, payment)
            await self._take(checked, digest)
        except TicketUnfunded:
            raise
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
            accepted = fund(checked, await self._view.read(params.sender, checked.signers), outstanding)
        await self._books.take(accepted, digest)

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
