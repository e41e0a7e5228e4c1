"""What the node is owed by the orchestrator of the session: the store's balance, at hand for decisions."""

from node.core.acceptance import AcceptedPayment
from node.core.exposure import Balance
from node.core.usage import Tally
from node.ports.tickets import TicketStore
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import UsageWindow
from tandem.protocol.signing import Address
from tandem.waiting import Bell


class Books:
    """`bell` is rung when a winner is written down."""

    def __init__(self, store: TicketStore, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._sender: Address | None = None
        self._tallies: dict[Address, Tally] = {}
        self.balance = Balance()
        self.held = 0
        """Wei that the attempts would earn that are running or not judged yet."""

    @property
    def at_stake(self) -> int:
        """Wei of work that was taken on and is not in the books yet."""
        return self.held + (self.tally(self._sender).exposure if self._sender else 0)

    def tally(self, sender: Address) -> Tally:
        """Of on-line work. There is one for each orchestrator that the node was ever told to work for."""
        found = self._tallies.get(sender)
        if found is None:
            found = self._tallies[sender] = Tally()
        return found

    async def open(self, sender: Address) -> None:
        """Turns to the account of this sender."""
        balance = await self._store.balance(sender)
        self._sender, self.balance = sender, balance

    async def earn(self, sender: Address, ref: AttemptRef, price: int) -> None:
        self._show(sender, await self._store.earn(sender, ref, price))

    async def book(self, sender: Address, window: UsageWindow) -> bool:
        """Whether the window was not there yet."""
        balance = await self._store.book(sender, window.id, window.requests, window.price)
        if balance is not None:
            self._show(sender, balance)
        return balance is not None

    async def lose(self, sender: Address, requests: int, price: int) -> None:
        """Served, and no window will come for it."""
        self._show(sender, await self._store.lose(sender, requests, price))

    async def take(self, accepted: AcceptedPayment, digest: bytes) -> None:
        """Raises a TicketError, as the store does."""
        self._show(accepted.checked.params.sender, await self._store.take(accepted, digest))
        if accepted.checked.winners:
            self._bell.ring()

    def _show(self, sender: Address, balance: Balance) -> None:
        if sender == self._sender:
            self.balance = balance
