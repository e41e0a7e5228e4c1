"""How much a node is owed, and how much more it lets itself be owed."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Balance:
    """Between the node and one sender, in wei since the beginning.

    `received` counts tickets at their expected value: luck is not the sender's affair.
    """

    earned: int = 0
    received: int = 0

    @property
    def unpaid(self) -> int:
        """Negative where the sender has paid ahead."""
        return self.earned - self.received

    def earn(self, price: int) -> "Balance":
        return replace(self, earned=self.earned + price)

    def receive(self, value: int) -> "Balance":
        return replace(self, received=self.received + value)


def headroom(balance: Balance, held: int, max_unpaid: int) -> int:
    """Wei of further work before the node would be owed too much; `held` is the price of work that is not judged."""
    return max_unpaid - balance.unpaid - held
