"""What the node is owed by the orchestrator of the session: the store's balance, at hand for decisions."""

from node.core.acceptance import AcceptedPayment
from node.core.exposure import Balance
from node.ports.tickets import TicketStore
from tandem.protocol.ids import AttemptRef
from tandem.protocol.signing import Address
from tandem.waiting import Bell


class Books:
    """`bell` is rung when a winner is written down."""

    def __init__(self, store: TicketStore, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._sender: Address | None = None
        self.balance = Balance()

    async def open(self, sender: Address) -> None:
        """Turns to the account of this sender."""
        balance = await self._store.balance(sender)
        self._sender, self.balance = sender, balance

    async def earn(self, sender: Address, ref: AttemptRef, price: int) -> None:
        self._show(sender, await self._store.earn(sender, ref, price))

    async def take(self, accepted: AcceptedPayment, digest: bytes) -> None:
        """Raises a TicketError, as the store does."""
        self._show(accepted.checked.params.sender, await self._store.take(accepted, digest))
        if accepted.checked.winners:
            self._bell.ring()

    def _show(self, sender: Address, balance: Balance) -> None:
        if sender == self._sender:
            self.balance = balance
