"""Ticket terms: issued when a session opens, renewed before they expire and when gas or the promise have moved, and
rotated before a redemption reveals them.
"""

import asyncio
import logging
from dataclasses import dataclass

from node.core.redemption import GAS_TICKET
from node.core.standing import Topic
from node.core.terms import Stakes, TermsPolicy, issue, moved, stakes
from node.ports.contract import TicketContract
from node.ports.tickets import TicketStore
from node.service.backing import BackingView
from node.service.gas import GasMeter
from node.service.link import Link
from node.service.notes import Notes
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.messages import TicketLimits, TicketTerms, TicketTermsReply
from tandem.protocol.signing import Address
from tandem.protocol.tickets import PAYMENT_WINNERS, TicketParams
from tandem.protocol.units import format_amount
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 15.0
_UNBACKED_SECONDS = 5.0
"""Between looks while terms wait for what backs them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What terms follow from, and where it is said how they stand."""

    contract: TicketContract
    view: BackingView
    gas: GasMeter
    notes: Notes


@dataclass(frozen=True, slots=True)
class _Issued:
    params: TicketParams
    stakes: Stakes
    renew_at: float


class Terms:
    """`agreed_bell` is rung when the orchestrator agrees to new terms."""

    def __init__(
        self,
        store: TicketStore,
        around: Surroundings,
        link: Link,
        clock: Clock,
        *,
        recipient: Address,
        policy: TermsPolicy,
        agreed_bell: Bell,
    ) -> None:
        self._store = store
        self._around = around
        self._link = link
        self._clock = clock
        self._recipient = recipient
        self._policy = policy
        self._limits: TicketLimits | None = None
        self._sender: Address | None = None
        self._issued: _Issued | None = None
        self._said: TicketParams | None = None
        """What was said last in this session."""
        self._backed = False
        """Whether the contract is known to promise enough."""
        self._agreed_bell = agreed_bell
        self._bell = Bell(clock)
        self._issuing = asyncio.Lock()
        self.agreed = False
        """Whether the orchestrator says that it signs under the newest terms, of the newest epoch, alone."""

    def opened(self, sender: Address, limits: TicketLimits) -> None:
        """A session is open: its orchestrator is to be told terms that are within its limits."""
        if (sender, limits) != (self._sender, self._limits):
            self._sender, self._limits, self._issued = sender, limits, None
        self._said = None
        self._bell.ring()

    async def run(self) -> None:
        """Until cancelled: keeps good terms in force."""
        while True:
            try:
                await self._keep()
            except (ChainUnavailable, ChainError) as error:
                self._around.notes.say(Topic.TERMS, f"none issued yet: {error.detail}")
                log.event(logger, "terms_delayed", level=logging.WARNING, detail=error.detail)
            await self._bell.wait(_LOOK_SECONDS if self._backed else _UNBACKED_SECONDS)

    async def rotate(self) -> int:
        """Begins a new epoch with terms of its own; the last epoch that they replace."""
        async with self._issuing:  # else terms of the old epoch might come into force after this
            epochs = await self._store.rotate()
            self._issued = None
            self.agreed = False
        self._bell.ring()
        return epochs.current - 1

    def reply(self, message: TicketTermsReply) -> None:
        if self._issued is None or message.commitment != self._issued.params.commitment:
            return
        if message.accepted:
            self.agreed = True
            self._around.notes.say(Topic.TERMS)
            self._agreed_bell.ring()
        else:
            self._around.notes.say(Topic.TERMS, f"refused by the orchestrator: {message.code}: {message.detail}")
            log.event(logger, "terms_refused", level=logging.ERROR, code=message.code, detail=message.detail)

    async def _keep(self) -> None:
        async with self._issuing:
            sender, limits = self._sender, self._limits
            if sender is None or limits is None or not self._link.open:
                return
            right = await self._right(sender, limits)
            if not self._may_issue():
                return
            # Renewed at half their life, so that the orchestrator always has some that its own limits let it use.
            issued = self._issued
            if issued is None or self._clock.now() >= issued.renew_at or moved(issued.stakes, right):
                issued = await self._issue(sender, right)
                if (sender, limits) != (self._sender, self._limits):
                    return
                self._issued = issued
            if issued.params != self._said:
                self._said = issued.params
                self._link.send(TicketTerms(params=issued.params))

    def _may_issue(self) -> bool:
        """Without terms an orchestrator gives no work, which nobody could be paid for; without new ones it ends once
        the old ones expire.

        But where those are about to be revealed it is told others, or it would go on to sign under them.
        """
        return self._backed or (self._said is not None and self._issued is None)

    async def _right(self, sender: Address, limits: TicketLimits) -> Stakes:
        gas = await self._around.gas.of_redemption()
        promised = await self._around.view.promised(sender, anew=not self._backed)
        right = stakes(self._policy, gas.cost, promised or 0, limits)
        self._backed = promised is not None and promised >= PAYMENT_WINNERS * right.face_value
        self._note_worth(right.face_value, GAS_TICKET * gas.price)
        if promised is not None:
            self._note_backing(sender, promised, right.face_value)
        elif self._said is None:
            raise ChainUnavailable("expected to read what the contract promises to this node, no endpoint answers")
        return right

    def _note_worth(self, face_value: int, least: int) -> None:
        """An orchestrator that signs for next to nothing would have its work done for nothing."""
        detail = ""
        if face_value <= least:
            detail = (
                f"expected more than the {format_amount(least)} that redeeming one costs in a large batch, got "
                f"{format_amount(face_value)}, by what the orchestrator signs, tickets.max_face_value, or what the "
                "contract promises: until one of them is more, or gas is cheaper, work earns nothing"
            )
        if self._around.notes.say(Topic.WORTH, detail) and detail:
            log.event(logger, "winners_worthless", level=logging.WARNING, detail=detail)

    def _note_backing(self, sender: Address, promised: int, face_value: int) -> None:
        """An orchestrator that cannot pay is given no terms, and so sends no work."""
        detail, least = "", PAYMENT_WINNERS * face_value
        if promised < least:
            detail = (
                f"expected the contract to promise this node at least {format_amount(least)} of {sender}, which is "
                f"{PAYMENT_WINNERS} winners, found {format_amount(promised)}: until it does, no terms are issued, "
                "payments that find no room are held, and no work comes"
            )
        if self._around.notes.say(Topic.BACKING, detail) and detail:
            log.event(logger, "not_backed", level=logging.WARNING, detail=detail)

    async def _issue(self, sender: Address, right: Stakes) -> _Issued:
        # A ticket must not outlive the time in which the sender cannot take back what backs it, so there are no terms
        # before the chain has said how long that is.
        lifetime = min(self._policy.lifetime, await self._around.contract.unlock_period() / 2)
        epochs = await self._store.epochs()
        now = self._clock.now()
        expiry = int(now + lifetime)
        params = issue(right, self._store.secret, sender, self._recipient, epochs.current, expiry)
        log.event(logger, "terms_issued", face_value=right.face_value, odds=right.odds, expiry=expiry)
        return _Issued(params, right, now + lifetime / 2)
