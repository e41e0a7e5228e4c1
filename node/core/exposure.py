"""How much a node is owed, and how much more it lets itself be owed."""

from dataclasses import dataclass, replace

_LOSABLE = 100


@dataclass(frozen=True, slots=True)
class Balance:
    """Between the node and one sender, in wei since the beginning.

    `received` counts tickets at their expected value: luck is not the sender's affair.
    """

    earned: int = 0
    received: int = 0
    lost: int = 0
    """Price of requests that were served and never settled: it was not earned, and the sender is to blame for it."""

    @property
    def unpaid(self) -> int:
        """Negative where the sender has paid ahead."""
        return self.earned - self.received

    @property
    def missed(self) -> int:
        """What of `lost` is more than mishap: senders are killed now and then, and lose a window each time.

        Beyond 1 % of what it has paid, a sender that loses count is let off no more.
        """
        return max(0, self.lost - self.received // _LOSABLE)

    def earn(self, price: int) -> "Balance":
        return replace(self, earned=self.earned + price)

    def receive(self, value: int) -> "Balance":
        return replace(self, received=self.received + value)

    def lose(self, price: int) -> "Balance":
        return replace(self, lost=self.lost + price)


def headroom(balance: Balance, held: int, max_unpaid: int) -> int:
    """Wei of further work before the node would be owed too much; `held` is the price of work that is not judged."""
    return max_unpaid - balance.unpaid - balance.missed - held
