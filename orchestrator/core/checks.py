"""Whether answers of models are true: some are run a second time elsewhere, and a third time where two differ.

No answer proves itself. Two nodes that say the same of the same inputs are taken to be right; of three, one that says
something else than the two others agree on is outvoted. What that does to a node is graded: its reliability falls, and
one that was outvoted several times of late gets no work for a while.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from orchestrator.core.scheduling import Obstacle, Reason
from tandem.protocol.models import Tolerance
from tandem.protocol.tensors import Datatype, Tensor

MARKET = "market"
"""Whose usage a second run is: no API key's, so that no customer pays for it."""

_KNOWN = 20
"""Answers that were confirmed one after the other, before which a node is new."""
_NEW = 5.0
"""How much likelier an answer of a new node is looked at."""
_DECAY = 0.9
"""Weight of the past, a check."""
_LEAST = 0.8
"""Of the decayed share of its answers that others confirmed: below it, a node gets no work. Three in a row do it."""
_WIDER = 10.0
"""The tolerance between two providers, which round differently, and of models that are run in batches."""
_PIECE = 2**20
"""Bytes that are compared at once: their elements are widened for it."""
_PAIR = 2

_FLOATS = {Datatype.FP16: "<f2", Datatype.FP32: "<f4", Datatype.FP64: "<f8"}


@dataclass(frozen=True, slots=True)
class CheckPolicy:
    share: float = 0.01
    """Of accepted answers, which are run a second time."""
    rate: float = 10.0
    """Such runs a second at most."""
    memory: int = 2**27
    """Bytes of inputs and outputs that are kept for it at one time."""
    suspension: float = 86_400.0
    """Seconds without work for a node that was outvoted several times of late."""


class Given(NamedTuple):
    """What a node answered to some inputs."""

    node: str
    provider: str
    outputs: tuple[Tensor, ...]


class Ruling(NamedTuple):
    """What comes of answers to the same inputs; neither set has a node where nothing is proven."""

    confirmed: frozenset[str] = frozenset()
    """Nodes of which another one says the same."""
    outvoted: frozenset[str] = frozenset()

    @property
    def decided(self) -> bool:
        return bool(self.confirmed)


def rule(answers: Sequence[Given], tolerance: Tolerance, *, batched: bool = False) -> Ruling:
    """Two or three answers, each of another node: who is confirmed, and who is outvoted by the two others.

    `batched`: whether some may have been run together with other requests, which may change them a little.
    """
    alike = [
        {one.node, other.node}
        for one, other in combinations(answers, _PAIR)
        if difference(one.outputs, other.outputs, _within(tolerance, wide=batched or one.provider != other.provider))
        is None
    ]
    everybody = {answer.node for answer in answers}
    if len(alike) == len(everybody) * (len(everybody) - 1) // _PAIR:
        return Ruling(frozenset(everybody))
    if len(alike) != 1:
        return Ruling()  # of three, one agrees with both others, which do not: the tolerance does not tell them apart
    (pair,) = alike
    return Ruling(frozenset(pair), frozenset(everybody - pair))


def _within(tolerance: Tolerance, *, wide: bool) -> Tolerance:
    if not wide:
        return tolerance
    return Tolerance(relative=min(1.0, _WIDER * tolerance.relative), absolute=_WIDER * tolerance.absolute)


def difference(one: Sequence[Tensor], other: Sequence[Tensor], tolerance: Tolerance) -> str | None:
    """How two answers differ; None: they do not. Floats may by the tolerance, NaN equals NaN; all else not at all."""
    if [tensor[:3] for tensor in one] != [tensor[:3] for tensor in other]:
        described = ["; ".join(map(repr, each))[:300] for each in (one, other)]
        return f"{described[0]} and {described[1]}"
    pairs = ((a, b) for a, b in zip(one, other, strict=True) if a.data != b.data)
    return next((found for a, b in pairs if (found := _off(a, b, tolerance))), None)


def _off(one: Tensor, other: Tensor, tolerance: Tolerance) -> str | None:
    """Of two tensors of one kind that are not the same, byte by byte."""
    if one.datatype not in _FLOATS and one.datatype is not Datatype.BF16:
        return f"output {one.name!r} differs"
    for start in range(0, len(one.data), _PIECE):
        mine, its = (_widened(each.datatype, each.data[start : start + _PIECE]) for each in (one, other))
        worst = _worst(mine, its, tolerance)
        if worst is not None:
            return f"output {one.name!r} differs by up to {worst:.3g}"
    return None


def _widened(datatype: Datatype, data: bytes | memoryview) -> Any:
    import numpy as np  # for answers that differ: an orchestrator of video alone does without

    if datatype is Datatype.BF16:
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, _FLOATS[datatype]).astype(np.float64)


def _worst(one: Any, other: Any, tolerance: Tolerance) -> float | None:
    """The largest difference, if one is beyond the tolerance; infinity where one is no number and the other is."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one - other)
        bound = tolerance.absolute + tolerance.relative * np.maximum(np.abs(one), np.abs(other))
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        off = ~(same | ((apart <= bound) & np.isfinite(one) & np.isfinite(other)))
    return float(np.where(np.isnan(apart[off]), np.inf, apart[off]).max()) if off.any() else None


class Draws:
    """Which answers are looked at: each with the same chance, whatever was drawn before. `random` is in [0, 1).

    The way to the next one is drawn ahead, so that an answer costs one subtraction.
    """

    __slots__ = ("_left", "_random", "_step")

    def __init__(self, share: float, random: Callable[[], float]) -> None:
        self._random = random
        self._step = -math.log1p(-share) if share < 1 else math.inf
        self._left = self._next()

    def falls(self, weight: float) -> bool:
        """Whether it is this one; `weight`: how many answers it counts for."""
        self._left -= weight * self._step
        if self._left > 0 or not self._step:
            return False
        self._left = self._next()
        return True

    def of_rows(self, rows: int, weight: float) -> Iterator[int]:
        """Those of so many rows, ascending."""
        step, row = weight * self._step, -1
        while step:
            row += max(1, math.ceil(self._next() / step))
            if row >= rows:
                return
            yield row

    def _next(self) -> float:
        return -math.log1p(-self._random())


@dataclass(slots=True, eq=False)
class Trust:
    """What checks have shown of a node. It outlives the node's sessions."""

    agreement: float = 1.0
    """The decayed share of its answers that others confirmed, of those that were checked and decided."""
    confirmed: int = 0
    """Answers, since it was last new, outvoted or in a dispute."""
    suspended: Reason | None = None
    until: float = 0.0
    """Seconds since the epoch, of the suspension."""

    @property
    def weight(self) -> float:
        """How many answers one of this node counts for when some are drawn."""
        return _NEW if self.confirmed < _KNOWN else 1.0

    def agreed(self) -> None:
        self.agreement = 1 - _DECAY * (1 - self.agreement)
        self.confirmed += 1

    def disputed(self) -> None:
        """Another node says something else, and no third one can tell who is right: it is looked at as a new one is."""
        self.confirmed = 0

    def outvoted(self, now: float, policy: CheckPolicy) -> bool:
        """Whether it gets no work from now on, for a while."""
        self.agreement *= _DECAY
        self.confirmed = 0
        if self.agreement >= _LEAST or self.suspended is not None:
            return False
        self.until = now + policy.suspension
        self.suspended = Reason(
            Obstacle.DISTRUSTED,
            f"two other nodes agreed on something else than it answered, several times; no work for "
            f"{policy.suspension:.0f} s (checks.suspension)",
        )
        return True

    def forgive(self, now: float) -> bool:
        """Whether its suspension is over now. What led to it stays, so that the next time does it again."""
        if self.suspended is None or now < self.until:
            return False
        self.suspended = None
        return True
