"""What the orchestrator asks of the ticket contract. Calls raise ChainUnavailable while the chain is away.

So they do while endpoints that answer disagree, where there are several.
They raise ChainError if the endpoint answers and refuses: too many blocks at once, or a state that it has forgotten.
"""

from dataclasses import dataclass
from typing import Protocol

from orchestrator.core.funding import Action
from orchestrator.core.records import ChainEvents
from tandem.chain.broker import SenderFunds
from tandem.protocol.signing import Address


@dataclass(frozen=True, slots=True)
class BlockRef:
    number: int
    hash: bytes


class Treasury(Protocol):
    """The account that funds the contract. Raises what TicketContract does, and TransactionReverted."""

    async def settle(self) -> bool:
        """Sees to what is in flight; whether nothing is any more."""
        ...

    async def submit(self, action: Action) -> None:
        """Sends the action's transaction, journalled first. If it raises, nothing was sent."""
        ...


class TicketContract(Protocol):
    """The contract, as it is for the one sender that this orchestrator signs for."""

    @property
    def source(self) -> str:
        """Chain, contract and sender, as one word."""
        ...

    @property
    def sender(self) -> Address: ...

    async def head(self) -> int:
        """The number of the newest block that all endpoints have."""
        ...

    async def block(self, number: int) -> BlockRef:
        """The block of this number on the chain as it is now."""
        ...

    async def first_block(self) -> int:
        """The block in which the contract was deployed. Raises ChainError if the endpoint cannot tell."""
        ...

    async def events(self, first: int, last: int) -> ChainEvents:
        """What the contract's events in these blocks, both included, mean for the books."""
        ...

    async def funds(self, recipient: Address, block: int) -> SenderFunds:
        """What stands behind tickets to the recipient, as of a block."""
        ...

    async def credit(self, recipient: Address) -> int:
        """Wei that the contract keeps for a recipient that did not take a payment."""
        ...
