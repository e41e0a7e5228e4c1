"""Pays nodes what they have earned: tickets are signed and stored in one transaction, then sent until answered."""

import asyncio
import logging
from weakref import WeakValueDictionary

from orchestrator.core.paying import PayingPolicy, adopt, agree, overdrawn_reason, pay, unfunded_reason, unpaid
from orchestrator.core.records import AccountChanges, AccountRecord, Failure, PaymentRecord, Standing
from orchestrator.core.scheduling import Obstacle, Reason
from orchestrator.core.session import Identity
from orchestrator.ports.store import Store
from orchestrator.service.nodes import ConnectedNode, Nodes
from tandem import logging as log
from tandem.protocol.errors import TicketError, TicketUnfunded
from tandem.protocol.messages import Payment, PaymentReceipt, Problem, TicketLimits, TicketTerms, TicketTermsReply
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 30.0
_MAX_OPEN = 2


class Payer:
    """A lock a node keeps the order that the node relies on: nothing under old terms follows the reply to new ones."""

    def __init__(self, store: Store, nodes: Nodes, identity: Identity, policy: PayingPolicy, bell: Bell) -> None:
        self._store = store
        self._nodes = nodes
        self._identity = identity
        self._policy = policy
        self._bell = bell
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def limits(self) -> TicketLimits:
        return self._policy.limits

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with asyncio.TaskGroup() as paying:  # side by side, so that they share commits
                for node in self._nodes:
                    if node.unpaid:
                        paying.create_task(self.pay(node))
            await self._bell.wait(_IDLE_SECONDS)

    async def pay(self, node: ConnectedNode) -> None:
        """Sends the node tickets for all that it is due."""
        async with self._lock(node.address):
            # A node that does not answer is not signed for without end, nor one whose session has ended meanwhile: what
            # is said there is lost, and a newer session has already been told what was open.
            while self._nodes.get(node.address) is node and node.is_payable and node.open_payments < _MAX_OPEN:
                payment = await self._next_payment(node.address)
                if payment is None:
                    return
                node.open_payments += 1
                _send(node, payment)

    async def resume(self, node: ConnectedNode) -> None:
        """Says again every payment that was not answered."""
        async with self._lock(node.address):
            payments = await self._store.open_payments(node.address)
            standing = await self._store.standing(node.address)
            self._stands(node, standing)
            self._withhold(node, overdrawn_reason(standing.account, self._policy))
            for payment in payments:
                _send(node, payment)

    async def terms(self, node: ConnectedNode, message: TicketTerms) -> None:
        """Adopts or refuses the terms that a node issues."""
        params = message.params

        def decide(account: AccountRecord, now: float) -> AccountChanges:
            agree(account, params, self._identity, self._policy, now)
            return adopt(account, params)

        async with self._lock(node.address):
            try:
                await self._store.decide_account(node.address, decide)
            except TicketError as error:
                node.link.send(_refusal(message, error))
                return
            account = await self._store.account(node.address)
            node.has_terms = True
            node.link.send(TicketTermsReply(commitment=params.commitment, accepted=True))
            self._withhold(node, overdrawn_reason(account, self._policy))
        self._bell.ring()

    async def receipt(self, node: ConnectedNode, message: PaymentReceipt) -> None:
        """Closes a payment: received, or refused and to be made good within bounds."""
        failure = None
        if not message.accepted:
            failure = Failure(message.code or TicketError.code, message.detail, retryable=False)
        log.event(
            logger, "payment", payment=message.id, node=node.address, received=message.accepted, code=message.code
        )
        async with self._lock(node.address):
            unfunded = failure is not None and await self._is_unfunded(node.address, message)
            standing = await self._store.record_receipt(node.address, message.id, failure)
            self._stands(node, standing)
            reason = unfunded_reason(message.detail) if unfunded else node.withheld
            self._withhold(node, overdrawn_reason(standing.account, self._policy) or reason)
        self._bell.ring()

    async def _is_unfunded(self, address: str, message: PaymentReceipt) -> bool:
        """Whether more tickets under the terms in force would be refused for want of backing as well."""
        if message.code != TicketUnfunded.code:
            return False
        params = (await self._store.account(address)).params
        payments = await self._store.open_payments(address)
        return any(payment.id == message.id and payment.params == params for payment in payments)

    def _withhold(self, node: ConnectedNode, reason: Reason | None) -> None:
        before, node.withheld = node.withheld, reason
        if reason is None or (before is not None and before.obstacle is reason.obstacle):
            return
        log.event(logger, f"node_{reason.obstacle}", level=logging.WARNING, node=node.address, detail=reason.detail)
        if reason.obstacle is Obstacle.OVERDRAWN:
            node.link.send(Problem(code=reason.obstacle, detail=reason.detail))

    def _stands(self, node: ConnectedNode, standing: Standing) -> None:
        """Acceptances add to `unpaid` as they are committed; so nothing is awaited between this reading and here."""
        node.unpaid = unpaid(standing.account, self._policy) + standing.open_value
        node.open_payments = standing.open_payments

    def _lock(self, node: str) -> asyncio.Lock:
        """It goes once nobody holds it: addresses cost whoever makes them up nothing."""
        return self._locks.setdefault(node, asyncio.Lock())

    async def _next_payment(self, node: str) -> PaymentRecord | None:
        def decide(account: AccountRecord, now: float) -> AccountChanges:
            return pay(account, self._identity, self._policy, now)

        return await self._store.decide_account(node, decide)


def _send(node: ConnectedNode, payment: PaymentRecord) -> None:
    node.link.send(Payment(id=payment.id, params=payment.params, tickets=payment.tickets))


def _refusal(message: TicketTerms, error: TicketError) -> TicketTermsReply:
    return TicketTermsReply(
        commitment=message.params.commitment, accepted=False, code=error.code, detail=error.detail[:4096]
    )
