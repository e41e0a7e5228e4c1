"""Requests on line: what is asked, what is answered, and which node gets a request.

A request names what is served, files and settings, and goes to a node where it is warm. Nothing of it is ever stored.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from orchestrator.core.scheduling import NodeState
from tandem.protocol.errors import ResultRejected, TandemError
from tandem.protocol.messages import Offer
from tandem.protocol.models import ModelInfo
from tandem.protocol.online import TensorLayout
from tandem.protocol.tensors import Tensor, TensorSpec, fits

_MILLICORES = 1000
_MIB = 2**20
_AHEAD = 2
"""Requests that a node has beyond those it can run at once, so that it never waits for the next."""
_GPU_RUNS = 8
_UNKNOWN_SECONDS = 0.001
_DECAY = 0.9
_SURE = 4
"""Deviations from the mean after which an answer is late."""


class OnlineCall(NamedTuple):
    """A request that was parsed and whose tensors fit the model."""

    owner: str
    """The API key's id."""
    model: ModelInfo
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    """The outputs that are wanted; empty: all."""
    priority: int = 0
    """Higher goes first among those of its owner that wait for the same model; 0 is ordinary."""
    timeout: float | None = None
    """Seconds until an answer is of no use; None: the model's, or that of the settings."""
    hedge: bool = False
    """Whether it may be run a second time elsewhere if it lags; so it is too if the model's settings say so."""


class OnlineAnswer(NamedTuple):
    outputs: tuple[Tensor, ...]
    """In the order that was asked for, or the model's; checked against the model's outputs."""
    provider: str
    """The ONNX Runtime provider that ran it."""
    node: str
    """The node's address."""
    run_us: int
    """Microseconds of the run itself, as the node says."""
    queue_us: int
    """Microseconds that it waited: here for a node, and there, as the node says, for a worker."""
    warm: bool
    """Whether the model was loaded somewhere when the request came."""


class ReplicaState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """It could not be loaded there; nothing is tried for a while."""


@dataclass(slots=True, eq=False)
class Replica:
    """A model on a node."""

    node: str
    state: ReplicaState
    since: float
    """By the monotonic clock."""
    limit: int
    """Requests that it is given at once."""
    error: TandemError | None = None
    """Why it could not be loaded."""
    outstanding: int = 0
    reserved: int = 0
    """Of the limit, for requests that are to go to this node and no other."""
    seconds: float | None = None
    """Between two answers of the node while it is busy, decayed: how long it has for each; None: nothing is known."""
    used_at: float = 0.0
    told: bool = True
    """Whether the node was told in this process's words what the model costs and how it is served."""

    def timed(self, seconds: float) -> None:
        """A request was answered after so long, beside all those that were outstanding."""
        each = seconds / max(1, self.outstanding)
        self.seconds = each if self.seconds is None else _DECAY * self.seconds + (1 - _DECAY) * each


class Candidate(NamedTuple):
    """A node where the model is ready, and what it asks."""

    replica: Replica
    price: int
    """Wei of this request, by the node's offer."""
    room: int
    """Wei that the node may still be owed."""
    reliability: float


def choose(candidates: Iterable[Candidate], most: int, tried: Collection[str]) -> Candidate | None:
    """The node that should answer first, of those that have room and ask `most` wei at most.

    One that was tried already gets the request again only if no other is there at all.
    """
    best, best_score = None, 0.0
    for candidate in candidates:
        replica, price, room, reliability = candidate
        if replica.outstanding + replica.reserved >= replica.limit or price > most or price > room:
            continue
        score = (replica.outstanding + 1) * (replica.seconds or _UNKNOWN_SECONDS)
        score *= (1.0 + (price / most if most else 0.0)) / max(reliability, 0.01)
        if replica.node in tried:
            score += 1e9
        if best is None or score < best_score:
            best, best_score = candidate, score
    return best


def limit_of(offer: Offer, max_batch: int) -> int:
    """Requests that a node is given at once: as many as it runs, the same again, and some to go on with."""
    runs = _GPU_RUNS if offer.capability.gpus else max(1, offer.capacity.cpu // _MILLICORES)
    return 2 * runs * max_batch + _AHEAD


def host(model: ModelInfo, nodes: Sequence[NodeState], price_most: int, without: Collection[str]) -> NodeState | None:
    """The node on which the model should be made warm next; None: there is none for it."""
    able = [node for node in nodes if node.address not in without and not unfit(model, node, price_most)]
    return min(able, key=lambda node: _burden(node, price_most), default=None)


def unfit(model: ModelInfo, node: NodeState, price_most: int) -> str | None:
    """Why a model is not loaded on a node; `price_most`: the most wei a second of model cost."""
    offer, asked = node.offer, node.offer.prices.inference_second
    reasons = (
        (offer.draining, "it is draining"),
        (not node.has_terms, "no ticket terms are in force"),
        (node.withheld is not None, node.withheld.detail if node.withheld else ""),
        (not offer.capability.execution_providers, "it has no ONNX Runtime provider"),
        (asked > price_most, f"it asks {asked} wei a second of model cost, and at most {price_most} are paid"),
        (model.memory > offer.capacity.memory, f"the model takes {model.memory} MiB of its {offer.capacity.memory}"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def has_spare(model: ModelInfo, node: NodeState) -> bool:
    """Whether the model makes no other go by its memory."""
    return _warm(node) + model.memory <= node.offer.capacity.memory


def _warm(node: NodeState) -> int:
    """MiB of models that are warm there."""
    return sum(warm.memory for warm in node.offer.models) // _MIB


def _burden(node: NodeState, price_most: int) -> tuple[bool, float, str]:
    """Lower is better: memory left for the model first, then speed for the price, shared by what it serves already."""
    offer = node.offer
    speed = max(1, offer.capability.inference_speed) * max(node.reliability, 0.01) / (1 + len(offer.models))
    dearness = 1.0 + (offer.prices.inference_second / price_most if price_most else 0.0)
    crowded = _warm(node) >= offer.capacity.memory
    return crowded, dearness / speed, node.address


class Demand(NamedTuple):
    """How much a model was asked for of late."""

    pinned: int
    """Replicas that are always wanted."""
    present: int
    """Ready or loading."""
    waiting: int
    """Requests for which no node has room."""
    pressed: float
    """Seconds for which requests have waited without a break."""
    idle: float
    """Seconds since the last request."""


def wanted(demand: Demand, grow_after: float, idle_after: float) -> int:
    """How many replicas there should be: one more as long as requests wait, none but the pinned when nobody asks."""
    if demand.idle >= idle_after and not demand.waiting:
        return demand.pinned
    grown = demand.present + 1 if demand.waiting and demand.pressed >= grow_after else demand.present
    return max(demand.pinned, grown)


@dataclass(slots=True)
class Pace:
    """How long answers take: mean and mean deviation in seconds, as RFC 6298 smooths them."""

    mean: float = 0.0
    deviation: float = 0.0

    def add(self, seconds: float) -> None:
        if not self.mean:
            self.mean, self.deviation = seconds, seconds / 2
            return
        self.deviation += (abs(seconds - self.mean) - self.deviation) / 4
        self.mean += (seconds - self.mean) / 8

    @property
    def late(self) -> float:
        """Seconds after which an answer lags."""
        return self.mean + _SURE * self.deviation if self.mean else 1.0


def check_answer(call: OnlineCall, outputs: Sequence[Tensor | TensorLayout]) -> None:
    """Raises ResultRejected unless the outputs are those that were asked for, in their order, as the model has them."""
    specs: Sequence[TensorSpec] = call.model.outputs
    if call.outputs:
        known = {spec.name: spec for spec in specs}
        specs = [known[name] for name in call.outputs]
    if len(specs) != len(outputs):
        raise ResultRejected(f"expected {len(specs)} outputs, got {len(outputs)}")
    for spec, tensor in zip(specs, outputs, strict=True):
        if tensor.name != spec.name or tensor.datatype != spec.datatype or not fits(spec.shape, tensor.shape):
            raise ResultRejected(
                f"expected output {spec.name!r} of {spec.datatype} {list(spec.shape)} (-1 is any), got "
                f"{tensor.name[:128]!r} of {tensor.datatype} {list(tensor.shape)}"
            )
