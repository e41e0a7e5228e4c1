"""What the daemon asks of its memory of tickets. Everything is on disk before a call returns."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from node.core.acceptance import AcceptedPayment
from node.core.exposure import Balance
from node.core.gas import GasPrice
from node.core.redemption import WinningSet
from node.core.standing import Note
from node.core.terms import Epochs
from node.ports.contract import Paid, RedemptionOutcome
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import PaymentReceipt
from tandem.protocol.signing import Address


@dataclass(frozen=True, slots=True)
class TicketTotals:
    """What became of all tickets so far; amounts in wei."""

    attempts: int
    """Accepted attempts."""
    requests: int
    """On line, that were settled."""
    earned: int
    on_line: int
    """The part of it that is for requests."""
    lost: int
    """Price of requests that were served and never settled."""
    received: int
    tickets: int
    winners: int
    outstanding: int
    """Face value of winners that can still be redeemed."""
    in_flight: int
    """The part of it that is in transactions under way."""
    expired: int
    """Face value of winners that were not redeemed in time."""
    redeemed: int
    gas_spent: int
    refused: Mapping[str, int]
    """Winners that the contract will not pay, by its reason."""


class TicketStore(Protocol):
    @property
    def secret(self) -> bytes:
        """32 bytes, from which the random numbers of all terms are derived; the same for ever."""
        ...

    async def epochs(self) -> Epochs: ...

    async def rotate(self) -> Epochs:
        """Begins a new epoch."""
        ...

    async def close_epochs(self, through: int) -> Epochs:
        """No ticket of these epochs is taken from now on, so that they may be revealed."""
        ...

    async def balance(self, sender: Address) -> Balance: ...

    async def earn(self, sender: Address, ref: AttemptRef, price: int) -> Balance:
        """An attempt was accepted; the second time changes nothing."""
        ...

    async def book(self, sender: Address, window: str, requests: int, price: int) -> Balance | None:
        """A window of on-line work is owed; None, and nothing changes, if it is there already.

        The oldest of very many windows are forgotten.
        """
        ...

    async def lose(self, sender: Address, requests: int, price: int) -> Balance:
        """On-line work was served and no window will come for it: it was never earned."""
        ...

    async def receipt(self, sender: Address, payment_id: int, digest: bytes) -> PaymentReceipt | None:
        """How the payment was answered before; `digest` tells it from another one under the same id.

        The oldest of very many answers are forgotten.
        """
        ...

    async def seen(self, params_hash: bytes, sender_nonces: Sequence[int]) -> AbstractSet[int]:
        """Those that tickets were taken with."""
        ...

    async def outstanding(self, sender: Address, now: float) -> int:
        """Face value of the sender's unredeemed winners, in wei, those in flight included."""
        ...

    async def take(self, accepted: AcceptedPayment, digest: bytes) -> Balance:
        """Writes a whole payment with its receipt.

        Raises TicketReplayed, TicketRevealed, or TicketExpired for terms under which nonces are forgotten, and writes
        nothing.
        """
        ...

    async def refuse(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        """Remembers that a payment was refused."""
        ...

    async def winners(self, now: float) -> tuple[WinningSet, ...]:
        """All that can still be redeemed and are not in flight."""
        ...

    async def in_flight(self) -> Mapping[Address, int]:
        """Face value of winners in transactions that are under way, by sender, in wei."""
        ...

    async def settle(self, outcome: RedemptionOutcome, now: float) -> None:
        """What a transaction paid and what it did not; what it left is a winner as before.

        The journal forgets the transaction in the same write.
        """
        ...

    async def paid_since(self, at: float) -> tuple[Paid, ...]:
        """The transactions that were settled since then and paid winners."""
        ...

    async def take_back(self, paid: Paid) -> None:
        """What it paid is won and not paid, as before."""
        ...

    async def prune(self, now: float) -> None:
        """Forgets terms that expired a day ago and the tickets under them, but for winners in flight.

        Of winners that were not paid the totals remain. It does so in steps; other calls come in between.
        """
        ...

    async def totals(self, now: float) -> TicketTotals: ...

    async def gas_price(self) -> GasPrice | None:
        """The last one that was kept."""
        ...

    async def keep_gas_price(self, price: GasPrice) -> None: ...

    async def gas_per_winner(self) -> int | None:
        """Gas that redeeming one winner took, over this node's last confirmed redemptions; None before the first."""
        ...

    async def note(self, topic: str, text: str, at: float) -> None:
        """How things stand, instead of what was noted on the topic before; the same text keeps its time."""
        ...

    async def notes(self) -> tuple[Note, ...]: ...
