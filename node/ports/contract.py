"""What the daemon asks of the ticket contract. Every call raises ChainUnavailable while the chain is away."""

from collections.abc import Set as AbstractSet
from typing import Protocol

from node.core.acceptance import Backing
from node.core.redemption import WinningSet
from tandem.chain.redemption import RedemptionResult
from tandem.protocol.signing import Address


class TicketContract(Protocol):
    async def unlock_period(self) -> int:
        """Seconds that a sender must wait to take back what it promised."""
        ...

    async def backing(self, sender: Address, signers: AbstractSet[Address]) -> Backing:
        """What stands behind the sender's tickets to this node, now."""
        ...

    async def gas_price(self) -> int:
        """Wei a unit."""
        ...

    async def redeem(self, sets: tuple[WinningSet, ...], rands: tuple[bytes, ...]) -> RedemptionResult:
        """Redeems in one transaction, journalled before it is sent, and waits for its confirmation."""
        ...

    async def recover(self) -> tuple[RedemptionResult, ...]:
        """What became of the transactions that an earlier process left in flight."""
        ...
