"""What the daemon asks of the ticket contract. Every call raises ChainUnavailable while the chain is away."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from node.core.acceptance import Backing
from node.core.redemption import WinningSet
from tandem.chain.redemption import RedemptionResult
from tandem.protocol.signing import Address
from tandem.protocol.tickets import TicketParams


@dataclass(frozen=True, slots=True)
class RedemptionOutcome:
    """What finally came of a transaction. `result` is None if another one took its place and it never was mined."""

    tx_nonce: int
    result: RedemptionResult | None
    gas_used: int = 0
    is_reverted: bool = False
    """It was mined and changed nothing."""
    block_number: int = 0
    block_hash: bytes = b""
    """Of the block that it was mined in."""


@dataclass(frozen=True, slots=True)
class Paid:
    """A transaction that paid winners, by one of them, and the block that it was mined in."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    params: TicketParams
    sender_nonce: int


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

    async def credit(self) -> int:
        """Wei of payments that did not reach this node's account, and wait for it on the contract."""
        ...

    async def redeem(self, sets: tuple[WinningSet, ...], rands: tuple[bytes, ...]) -> int:
        """Sends a transaction that redeems these winners, and returns its tx_nonce at once.

        Before it is sent, the transaction and which winners are in it are on disk, in one write.
        """
        ...

    async def outcomes(self) -> tuple[RedemptionOutcome, ...]:
        """Looks after all that is in flight: says what is final, again and again until it is acknowledged."""
        ...

    async def is_undone(self, paid: Paid) -> bool:
        """Whether a reorganisation took back what counted already."""
        ...

    async def acknowledge(self, outcome: RedemptionOutcome) -> None:
        """What came of it is written down."""
        ...
