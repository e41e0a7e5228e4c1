"""What gas costs, looked at now and then; the last known price serves while the chain is away."""

from node.core.gas import FIRST_GUESS, MOST, GasPrice, RedemptionGas
from node.ports.contract import TicketContract
from node.ports.tickets import TicketStore
from tandem.clock import Clock
from tandem.protocol.errors import ChainError, ChainUnavailable

HALF_LIFE_SECONDS = 1800.0
"""In which what is usual covers half of the way to a lasting change."""
_FRESH_SECONDS = 10.0
_KEPT_PERCENT = 5
"""A change by so much is written down."""


class GasMeter:
    def __init__(self, store: TicketStore, contract: TicketContract, clock: Clock) -> None:
        self._store = store
        self._contract = contract
        self._clock = clock
        self._price: GasPrice | None = None
        self._kept: int | None = None
        self._read_at: float | None = None

    async def price(self) -> GasPrice:
        """Raises ChainUnavailable or ChainError if the chain cannot be asked."""
        now = self._clock.monotonic()
        known = await self._known()
        if known is not None and self._read_at is not None and now - self._read_at < _FRESH_SECONDS:
            return known
        current, at = await self._contract.gas_price(), self._clock.now()
        price = known.observe(current, at, HALF_LIFE_SECONDS) if known else GasPrice(current, current, at)
        self._price, self._read_at = price, now
        if self._kept is None or abs(price.usual - self._kept) * 100 > self._kept * _KEPT_PERCENT:
            self._kept = price.usual
            await self._store.keep_gas_price(price)
        return price

    async def of_redemption(self) -> RedemptionGas:
        """At the usual price. Raises ChainUnavailable or ChainError if no price was ever read."""
        try:
            price = await self.price()
        except (ChainUnavailable, ChainError):
            known = await self._known()
            if known is None:
                raise
            price = known
        measured = await self._store.gas_per_winner() or FIRST_GUESS
        return RedemptionGas(min(measured, MOST), price.usual)

    async def _known(self) -> GasPrice | None:
        if self._price is None:
            self._price = await self._store.gas_price()
            self._kept = self._price.usual if self._price else None
        return self._price
