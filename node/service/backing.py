"""What the contract promises, read seldom: it changes slowly, and payments come often."""

import asyncio
from dataclasses import dataclass

from node.core.acceptance import Backing, backed
from node.ports.contract import TicketContract
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.signing import Address
from tandem.protocol.tickets import TicketParams
from tandem.waiting import Bell

_PATIENCE_SECONDS = 2.0
"""For a new reading where an old one would do: all payments wait for it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    backing: Backing
    at: float


class BackingView:
    """The newest reading of each sender's backing. `refresh`: seconds for which it is taken as it is."""

    def __init__(self, contract: TicketContract, clock: Clock, refresh: float) -> None:
        self._contract = contract
        self._clock = clock
        self._refresh = refresh
        self._readings: dict[Address, _Reading] = {}
        self._failed_at: float | None = None
        self.bell = Bell(clock)
        """Rung when more may be promised than was, or less used: payments wait for it."""

    def forget(self) -> None:
        """Funds have moved: read again."""
        self._readings.clear()
        self.bell.ring()

    async def read(self, sender: Address, signers: frozenset[Address] = frozenset()) -> Backing:
        """Straight from the chain; signers that may sign stay in sight."""
        known = self._readings.get(sender)
        # The others would each cost a question for ever, and anybody can make up a million of them.
        kept = {signer for signer, until in known.backing.signers.items() if until} if known else set()
        try:
            backing = await self._contract.backing(sender, signers | kept)
        except (ChainUnavailable, ChainError):
            self._failed_at = self._clock.monotonic()
            raise
        self._failed_at = None
        self._readings[sender] = _Reading(backing, self._clock.monotonic())
        if known is not None and backing.promised > known.backing.promised:
            self.bell.ring()
        return backing

    async def recent(self, sender: Address, signers: frozenset[Address] = frozenset()) -> Backing:
        """A reading that is not too old. Raises ChainUnavailable or ChainError."""
        known = self._readings.get(sender)
        if known is not None and self._is_fresh(known) and signers <= known.backing.signers.keys():
            return known.backing
        return await self.read(sender, signers)

    async def promised(self, sender: Address, *, anew: bool = False) -> int | None:
        """Wei; while the chain is away, by the last reading. None if there is none."""
        known = self._readings.get(sender)
        if known is not None and self._failed_lately():
            return known.backing.promised
        try:
            return (await (self.read(sender) if anew else self.recent(sender))).promised
        except (ChainUnavailable, ChainError):
            return known.backing.promised if known else None

    async def for_tickets(self, params: TicketParams, signers: frozenset[Address]) -> Backing:
        """A reading that covers these tickets.

        While the chain is away or slow, an old one serves, as long as nothing in it can have been taken back before
        the tickets expire. Raises ChainUnavailable or ChainError if there is none.
        """
        signers -= {params.sender}  # which need not be authorised
        old = self._usable(params, signers)
        if old is not None and (self._is_fresh(old) or self._failed_lately()):
            return old.backing
        if old is None:
            return await self.read(params.sender, signers)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self.read(params.sender, signers)
        except (ChainUnavailable, ChainError, TimeoutError):
            self._failed_at = self._clock.monotonic()
            return old.backing

    def _usable(self, params: TicketParams, signers: frozenset[Address]) -> _Reading | None:
        reading = self._readings.get(params.sender)
        if reading is None or not signers <= reading.backing.signers.keys():
            return None
        return reading if backed(params, reading.backing) else None

    def _failed_lately(self) -> bool:
        """An endpoint that does not answer takes its time over it, and payments wait for each other."""
        return self._failed_at is not None and self._clock.monotonic() - self._failed_at < self._refresh

    def _is_fresh(self, reading: _Reading) -> bool:
        return self._clock.monotonic() - reading.at < self._refresh
