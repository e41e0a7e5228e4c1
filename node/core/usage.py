"""On-line work for one sender, counted by the node itself: pure, and cheap enough for every request.

What is counted is a check on the sender and a bound on what it may owe. What is owed, the sender's windows say.
"""

from collections import deque
from dataclasses import dataclass

LATE_SECONDS = 30.0
"""After which work that no window has settled is missed."""


@dataclass(frozen=True, slots=True)
class Count:
    """Requests, and their price in wei."""

    requests: int = 0
    price: int = 0

    def plus(self, requests: int, price: int) -> "Count":
        return Count(self.requests + requests, self.price + price)


@dataclass(slots=True)
class Tally:
    """All in wei, but for the counts of requests."""

    in_flight: int = 0
    served: int = 0
    """In this session, and in no window yet."""
    requests: int = 0
    """Those that `served` is the price of."""
    carried: Count = Count()
    """The same of sessions before, while their last windows are being booked."""

    @property
    def unsettled(self) -> int:
        return self.served + self.carried.price

    @property
    def exposure(self) -> int:
        """What is at stake and not in the books yet."""
        return self.in_flight + self.served + self.carried.price

    def begin(self, price: int) -> None:
        self.in_flight += price

    def answer(self, price: int) -> None:
        self.in_flight -= price
        self.served += price
        self.requests += 1

    def fail(self, price: int) -> None:
        self.in_flight -= price

    def settle(self, requests: int, price: int) -> int:
        """A window was booked, earlier work first: how much less is unsettled. One that says more is believed."""
        before = self.unsettled
        earlier, rest = min(price, self.carried.price), min(requests, self.carried.requests)
        self.carried = self.carried.plus(-rest, -earlier)
        self.served = max(0, self.served - (price - earlier))
        self.requests = max(0, self.requests - (requests - rest))
        return before - self.unsettled

    def carry(self) -> None:
        """A session has ended: only windows that are known already can settle what was served in it."""
        self.carried = self.carried.plus(self.requests, self.served)
        self.served = self.requests = 0

    def give_up(self) -> None:
        """What was carried and no window has settled is lost: the sender has lost count of it."""
        self.carried = Count()


class Lateness:
    """What was served long ago and is in no window: it counts as unpaid, and is worth a warning when it grows."""

    def __init__(self) -> None:
        self._settled = 0
        self._marks: deque[tuple[float, int]] = deque([(-LATE_SECONDS, 0)])
        """When, and how much had been served by then since the session began."""
        self._warned = 0

    def settled(self, price: int) -> None:
        self._settled += price

    def missing(self, unsettled: int, now: float) -> int:
        """Wei, if there is more of it than was last said; else 0."""
        self._marks.append((now, self._settled + unsettled))
        while len(self._marks) > 1 and self._marks[1][0] <= now - LATE_SECONDS:
            self._marks.popleft()
        at, served = self._marks[0]
        late = served - self._settled if at <= now - LATE_SECONDS else 0
        if late <= self._warned:
            self._warned = max(0, late)
            return 0
        self._warned = late
        return late
