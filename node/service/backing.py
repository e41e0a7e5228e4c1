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
        """Straight from the chain; signers that may sign stay in sight."""
        asked = signers | self._signers if sender == self._sender else signers
        reading = await self._contract.backing(sender, asked)
        # The others would each cost a question for ever, and anybody can make up a million of them.
        self._signers = frozenset(signer for signer, until in reading.signers.items() if until)
        self._sender, self._reading, self._read_at = sender, reading, self._clock.monotonic()
        return reading

    async def for_tickets(self, params: TicketParams, signers: frozenset[Address]) -> Backing:
        """A reading that covers these tickets.

        While the chain is away an old one serves, as long as nothing in it can have been taken back before the
        tickets expire. Raises ChainUnavailable or ChainError if there is none.
        """
        signers -= {params.sender}  # which need not be authorised
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
        if reading is None or params.sender != self._sender or not signers <= reading.signers.keys():
            return None
        return reading if backed(params, reading) else None
