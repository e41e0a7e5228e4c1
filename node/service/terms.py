"""Ticket terms: issued when a session opens, renewed before they expire, rotated before a redemption reveals them."""

import asyncio
import logging

from node.core.terms import TermsPolicy, issue, within
from node.ports.contract import TicketContract
from node.ports.tickets import TicketStore
from node.service.link import Link
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.messages import TicketLimits, TicketTerms, TicketTermsReply
from tandem.protocol.signing import Address
from tandem.protocol.tickets import TicketParams
from tandem.waiting import Bell, happens

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 15.0


class Terms:
    def __init__(
        self,
        store: TicketStore,
        contract: TicketContract,
        link: Link,
        clock: Clock,
        *,
        recipient: Address,
        policy: TermsPolicy,
    ) -> None:
        self._store = store
        self._contract = contract
        self._link = link
        self._clock = clock
        self._recipient = recipient
        self._policy = policy
        self._limits: TicketLimits | None = None
        self._sender: Address | None = None
        self._params: TicketParams | None = None
        self._renew_at = 0.0
        self._said: TicketParams | None = None
        """What was said last in this session."""
        self._agreed = asyncio.Event()
        self._bell = Bell(clock)
        self._issuing = asyncio.Lock()

    def opened(self, sender: Address, limits: TicketLimits) -> None:
        """A session is open: its orchestrator is to be told terms that are within its limits."""
        if (sender, limits) != (self._sender, self._limits):
            self._sender, self._limits, self._params = sender, limits, None
        self._said = None
        self._bell.ring()

    async def run(self) -> None:
        """Until cancelled: keeps good terms in force."""
        while True:
            try:
                await self._keep()
            except (ChainUnavailable, ChainError) as error:
                log.event(logger, "terms_delayed", level=logging.WARNING, detail=error.detail)
            await self._bell.wait(_LOOK_SECONDS)

    async def rotate(self) -> int:
        """Begins a new epoch with terms of its own; the last epoch that they replace."""
        async with self._issuing:  # else terms of the old epoch might come into force after this
            epochs = await self._store.rotate()
            self._params = None
            self._agreed.clear()
        self._bell.ring()
        return epochs.current - 1

    async def agreed(self, seconds: float) -> bool:
        """Whether the orchestrator says, now or within the time, that it signs under the newest terms alone."""
        return await happens(self._agreed, self._clock, seconds)

    def reply(self, message: TicketTermsReply) -> None:
        if self._params is None or message.commitment != self._params.commitment:
            return
        if message.accepted:
            self._agreed.set()
        else:
            log.event(logger, "terms_refused", level=logging.ERROR, code=message.code, detail=message.detail)

    async def _keep(self) -> None:
        async with self._issuing:
            sender, limits = self._sender, self._limits
            if sender is None or limits is None or not self._link.open:
                return
            # Renewed at half their life, so that the orchestrator always has some that its own limits let it use.
            if self._params is None or self._clock.now() >= self._renew_at:
                params = await self._issue(sender, limits)
                if (sender, limits) != (self._sender, self._limits):
                    return
                self._params = params
            if self._params != self._said:
                self._said = self._params
                self._link.send(TicketTerms(params=self._params))

    async def _issue(self, sender: Address, limits: TicketLimits) -> TicketParams:
        # A ticket must not outlive the time in which the sender cannot take back what backs it, so there are no terms
        # before the chain has said how long that is.
        lifetime = min(self._policy.lifetime, await self._contract.unlock_period() / 2)
        epochs = await self._store.epochs()
        now = self._clock.now()
        self._renew_at = now + lifetime / 2
        policy = within(self._policy, limits)
        return issue(policy, self._store.secret, sender, self._recipient, epochs.current, int(now + lifetime))
