"""What owners hold of something that all of them use, and whose turn it is."""


class Holdings:
    """How much each owner holds."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def of(self, owner: str) -> int:
        return self._of.get(owner, 0)

    def add(self, owner: str, amount: int) -> None:
        """A negative amount is given back; an owner that holds nothing is forgotten."""
        left = self._of.get(owner, 0) + amount
        if left:
            self._of[owner] = left
        else:
            self._of.pop(owner, None)


class Turns:
    """Rounds in which each owner has one request, for each priority; what waits goes by the number of its round."""

    __slots__ = ("_last", "_now")

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], int] = {}
        self._now: dict[int, int] = {}

    def next(self, priority: int, owner: str) -> int:
        """The round of an owner's new request: after those it has waiting, and no sooner than the round that is on."""
        place = priority, owner
        turn = self._last[place] = max(self._last.get(place, 0), self._now.get(priority, 0)) + 1
        return turn

    def served(self, priority: int, turn: int) -> None:
        """A request of this round has gone."""
        self._now[priority] = max(turn, self._now.get(priority, 0))

    def clear(self) -> None:
        """Nothing waits any more."""
        self._last.clear()
        self._now.clear()


class Room:
    """For requests that wait: so many for each model, so many bytes for all, and of both a share for each owner."""

    __slots__ = ("_bytes", "_held", "_most_bytes", "_queue", "_share")

    def __init__(self, queue: int, most_bytes: int, share: float) -> None:
        self._queue = queue
        self._most_bytes = most_bytes
        self._share = share
        self._bytes = 0
        self._held = Holdings()

    def refusal(self, waiting: int, held: Holdings, owner: str, size: int) -> str | None:
        """The bound that a further request is beyond; `held`: how many wait for its model, `waiting` in all."""
        share, share_bytes = max(1, int(self._queue * self._share)), int(self._most_bytes * self._share)
        bounds = (
            (waiting < self._queue, f"fewer than {self._queue} requests (online.queue)"),
            (self._bytes + size <= self._most_bytes, f"at most {self._most_bytes} bytes (online.queue_bytes)"),
            (held.of(owner) < share, f"fewer than {share} requests of one key (online.share)"),
            (self._held.of(owner) + size <= share_bytes, f"at most {share_bytes} bytes of one key (online.share)"),
        )
        return next((bound for holds, bound in bounds if not holds), None)

    def add(self, held: Holdings, owner: str, size: int) -> None:
        """A request waits."""
        self._bytes += size
        self._held.add(owner, size)
        held.add(owner, 1)

    def drop(self, held: Holdings, owner: str, size: int) -> None:
        """It does not any more."""
        self._bytes -= size
        self._held.add(owner, -size)
        held.add(owner, -1)
