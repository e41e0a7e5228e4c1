"""What the contract promises, read seldom: it changes slowly, and payments come often."""

from node.core.acceptance import Backing, backed
from node.ports.contract import TicketContract
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable
from tandem.protocol.signing import Address
from tandem.protocol.tickets import TicketParams


class BackingView:
    """The newest reading of one sender's backing. `refresh`: seconds for which it is taken as it is."""

    def __init__(self, contract: TicketContract, clock: Clock, refresh: float) -> None:
        self._contract = contract
        self._clock = clock
        self._refresh = refresh
        self._sender: Address | None = None
        self._signers: frozenset[Address] = frozenset()
        self._reading: Backing | None = None
        self._read_at = 0.0

    def forget(self) -> None:
        """Funds have moved: read again."""
        self._reading = None

    async def read(self, sender: Address, signers: frozenset[Address] = frozenset()) -> Backing:
        """Straight from the chain; signers asked about once stay in sight."""
        self._signers = signers if sender != self._sender else self._signers | signers
        self._sender = sender
        self._reading = await self._contract.backing(sender, self._signers)
        self._read_at = self._clock.monotonic()
        return self._reading

    async def for_tickets(self, params: TicketParams, signers: frozenset[Address]) -> Backing:
        """A reading that covers these tickets.

        While the chain is away an old one serves, as long as nothing in it can have been taken back before the
        tickets expire. Raises ChainUnavailable or ChainError if there is none.
        """
        old = self._usable(params, signers)
        if old is not None and self._clock.monotonic() - self._read_at < self._refresh:
            return old
        try:
            return await self.read(params.sender, signers)
        except (ChainUnavailable, ChainError):
            if old is None:
                raise
            return old

    def _usable(self, params: TicketParams, signers: frozenset[Address]) -> Backing | None:
        reading = self._reading
        if reading is None or params.sender != self._sender or not signers <= self._signers:
            return None
        return reading if backed(params, reading) else None
