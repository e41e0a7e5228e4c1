"""What gas costs: as of now, and usually. A single spike moves what is usual by hardly anything."""

from dataclasses import dataclass, replace

FIRST_GUESS = 100_000
"""Gas of redeeming a winner, before this node has redeemed any: the contract uses 75,000 for one alone with warm slots,
and less for each of a batch."""
MOST = 500_000
"""Whatever an endpoint says that one took."""
_PARTS = 10**6
_MOST_TIMES = 2


@dataclass(frozen=True, slots=True)
class GasPrice:
    """Wei a unit of gas. `at` is when it was read, in seconds of Unix time."""

    current: int
    usual: int
    at: float

    def observe(self, price: int, now: float, half_life: float) -> "GasPrice":
        """With one more reading. What is usual covers half of the way to a lasting change in each `half_life` seconds.

        The way to one reading counts at most up to twice, or down to half, of what was usual. A clock that was set back
        counts as no time.
        """
        bounded = max(self.usual // _MOST_TIMES, min(price, self.usual * _MOST_TIMES + 1))
        weight = int(_PARTS * (1 - 0.5 ** (max(0.0, now - self.at) / half_life)))
        step = (bounded - self.usual) * weight
        # rounded away from where it is: else a price of a few wei would stay there for ever
        moved = -(-step // _PARTS) if step > 0 else step // _PARTS
        return replace(self, current=price, usual=self.usual + moved, at=now)


@dataclass(frozen=True, slots=True)
class RedemptionGas:
    """What redeeming one winner costs: gas as measured in this node's own redemptions, and the usual price."""

    units: int
    price: int

    @property
    def cost(self) -> int:
        """Wei."""
        return self.units * self.price
