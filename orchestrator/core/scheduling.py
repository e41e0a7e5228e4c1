"""Which waiting task goes to which node: pure, and able to say why not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from orchestrator.core.records import ReadyTask, TaskRecord
from orchestrator.core.sharding import ROW_US
from tandem.protocol.capacity import RESOURCES, Capacity, shortfalls
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import AnyWork, BatchWork, InferenceWork, TaskState, TranscodeWork
from tandem.protocol.messages import Offer
from tandem.protocol.placement import LEAST_CPU, effort, lacking, need
from tandem.protocol.pricing import price_of

_MICRO = 10**6
_UNKNOWN_SPEED_SECONDS = 60.0
_USUAL_SPEED = 1000
"""Runs a second of the calibration model on a core as fast as that by which a model's cost is measured."""
_FETCHED_A_SECOND = 25 * 10**6
"""Bytes, as a guess: enough to prefer the node that has the source."""


class Obstacle(StrEnum):
    """Why a task is not on a node."""

    DRAINING = "draining"
    NO_TERMS = "no_terms"
    """The node has not agreed how it is paid."""
    OVERDRAWN = "overdrawn"
    """It has refused more in tickets than is made good."""
    UNFUNDED = "unfunded"
    """It refused its last tickets because the contract does not promise it enough."""
    DISTRUSTED = "distrusted"
    """Its answers were outvoted by those of other nodes."""
    CANNOT = "cannot"
    """It lacks an encoder or a provider."""
    PRICE = "price"
    """It asks more than the job pays, or does not sell this."""
    EXPOSURE = "exposure"
    """It would be owed more than it allows."""
    CAPACITY = "capacity"
    FAILED_BEFORE = "failed_before"
    """The task failed there or was handed back, and another node can take it."""


@dataclass(frozen=True, slots=True)
class Reason:
    obstacle: Obstacle
    detail: str


@dataclass(frozen=True, slots=True)
class Load:
    """What one attempt takes up on its node."""

    need: Capacity
    price: int
    """Wei that it will earn."""
    deadline: float = math.inf
    """Store time after which its lease is not extended any more."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A connected node, as the scheduler sees it."""

    address: str
    offer: Offer
    loads: Mapping[AttemptRef, Load]
    unpaid: int = 0
    """Wei of accepted work that no receipted ticket covers yet, and of on-line requests on their way."""
    has_terms: bool = True
    withheld: Reason | None = None
    """Why it gets neither work nor tickets, whatever its terms."""
    reliability: float = 1.0
    """The decayed share of its attempts that were accepted, in (0, 1]."""
    pace: float | None = None
    """How much faster it was of late than its measured speed promises; None: nothing is known."""
    sources: frozenset[str] = frozenset()
    """Artifacts that it was sent to fetch, and should still have."""

    @property
    def free(self) -> Capacity:
        left = self.offer.capacity
        for load in self.loads.values():
            left -= load.need
        return left

    def paced(self, pace: float) -> "NodeState":
        return replace(self, pace=pace)

    @property
    def has_room(self) -> bool:
        """Whether there is any task that it might take."""
        return not self.offer.draining and self.is_payable and self.free.cpu >= LEAST_CPU

    @property
    def is_payable(self) -> bool:
        return self.has_terms and self.withheld is None

    @property
    def exposure(self) -> int:
        return self.unpaid + sum(load.price for load in self.loads.values())


@dataclass(frozen=True, slots=True)
class Assignment:
    task: str
    node: str
    price: int
    """Wei, by the node's offer."""
    need: Capacity


def assign(tasks: Sequence[ReadyTask], nodes: Sequence[NodeState]) -> list[Assignment]:
    """As many assignments as fit, oldest task first, each to the best node for it."""
    states = {node.address: node for node in nodes}
    assignments: list[Assignment] = []
    for ready in tasks:
        chosen = _choose(ready, states)
        if chosen is not None:
            assignments.append(chosen)
            states[chosen.node] = _with_load(states[chosen.node], chosen)
    return assignments


def explain(ready: ReadyTask, nodes: Sequence[NodeState]) -> dict[str, tuple[Reason, ...]]:
    """For each node, why it does not take the task now; empty: it would."""
    alternatives = _able(ready, nodes)
    return {node.address: _obstacles(ready, node, alternatives) for node in nodes}


def _choose(ready: ReadyTask, states: Mapping[str, NodeState]) -> Assignment | None:
    nodes = list(states.values())
    alternatives = _able(ready, nodes)
    willing = [node for node in nodes if not _obstacles(ready, node, alternatives)]
    if not willing:
        return None
    best = min(willing, key=lambda node: (_recency(ready, node), _score(ready, node), node.address))
    price = price_of(ready.task.work, best.offer.prices)
    assert price is not None  # noqa: S101 - a node without a price has an obstacle
    return Assignment(ready.task.id, best.address, price, need(ready.task.work, best.offer.capability))


def _recency(ready: ReadyTask, node: NodeState) -> int:
    """Nodes that all failed the task take turns, so that one that always fails cannot keep it."""
    return ready.failed_on.index(node.address) if node.address in ready.failed_on else -1


def _with_load(node: NodeState, chosen: Assignment) -> NodeState:
    ref = AttemptRef.model_construct(task=chosen.task, number=0)  # the store gives the number
    return replace(node, loads={**node.loads, ref: Load(chosen.need, chosen.price)})


def _able(ready: ReadyTask, nodes: Sequence[NodeState]) -> frozenset[str]:
    """Nodes that have not failed the task and could take it, now or once they are idle and paid."""
    idle = (replace(node, loads={}, unpaid=0) for node in nodes if node.address not in ready.failed_on)
    return frozenset(node.address for node in idle if not _lasting(ready, node) + _passing(ready, node))


def _obstacles(ready: ReadyTask, node: NodeState, alternatives: frozenset[str]) -> tuple[Reason, ...]:
    reasons = _lasting(ready, node) + _passing(ready, node)
    if node.address in ready.failed_on and alternatives:
        reasons.append(Reason(Obstacle.FAILED_BEFORE, f"{len(alternatives)} other nodes can take it"))
    return tuple(reasons)


def speeds(work: TranscodeWork, price: int, nodes: Sequence[NodeState]) -> list[float]:
    """Seconds of the transcode a second, of each node that could take its parts at so many wei for the whole."""
    whole = ReadyTask(TaskRecord("", work, TaskState.WAITING, price))
    able = [replace(node, sources=frozenset({work.source})) for node in nodes if not _lasting(whole, node)]
    return [work.duration_us / _MICRO / max(expected_seconds(work, node), 1 / _MICRO) for node in able]


def lanes_of(work: BatchWork, nodes: Sequence[NodeState]) -> int:
    """How many shards may run at the same time, on all nodes together; at least one."""
    able = [node for node in nodes if node.is_payable and not lacking(work, node.offer.capability)]
    return max(1, sum(_shards_on(work, node) for node in able))


def _shards_on(work: BatchWork, node: NodeState) -> int:
    wanted, had = need(work, node.offer.capability), node.offer.capacity
    fits = [getattr(had, name) // amount for name in RESOURCES if (amount := getattr(wanted, name))]
    return int(min(fits))


def _lasting(ready: ReadyTask, node: NodeState) -> list[Reason]:
    """Obstacles that waiting does not remove."""
    reasons = []
    if node.offer.draining:
        reasons.append(Reason(Obstacle.DRAINING, "the node takes no new attempts"))
    if not node.has_terms:
        reasons.append(Reason(Obstacle.NO_TERMS, "no ticket terms are in force"))
    if node.withheld is not None:
        reasons.append(node.withheld)
    if missing := lacking(ready.task.work, node.offer.capability):
        reasons.append(Reason(Obstacle.CANNOT, missing))
    price = price_of(ready.task.work, node.offer.prices)
    if price is None:
        reasons.append(Reason(Obstacle.PRICE, "the node does not sell this codec"))
    elif price > ready.task.price:
        reasons.append(Reason(Obstacle.PRICE, f"the node asks {price} wei, the job pays {ready.task.price}"))
    if (price or 0) > node.offer.max_unpaid:
        never = f"it earns {price} wei, and the node never lets itself be owed more than {node.offer.max_unpaid}"
        reasons.append(Reason(Obstacle.EXPOSURE, f"{never}: give it a smaller job, or raise the node's max_unpaid"))
    return reasons


def _passing(ready: ReadyTask, node: NodeState) -> list[Reason]:
    reasons = []
    price = price_of(ready.task.work, node.offer.prices) or 0
    if price <= node.offer.max_unpaid < node.exposure + price:
        owed = f"{node.exposure} wei are owed or in work"
        reasons.append(Reason(Obstacle.EXPOSURE, f"{owed}; with {price} more the node's {node.offer.max_unpaid} pass"))
    short = shortfalls(need(ready.task.work, node.offer.capability), node.free)
    if short:
        reasons.append(Reason(Obstacle.CAPACITY, "; ".join(f"{k}: needs {n}, free {f}" for k, (n, f) in short.items())))
    return reasons


def _score(ready: ReadyTask, node: NodeState) -> float:
    """Lower is better: expected time, dearer by the share of the job's price that the node asks."""
    price = price_of(ready.task.work, node.offer.prices) or 0
    dearness = price / ready.task.price if ready.task.price else 0.0
    seconds = (1 + len(node.loads)) * expected_seconds(ready.task.work, node)
    return seconds * (1.0 + dearness) / max(node.reliability, 0.01)


def expected_seconds(work: AnyWork, node: NodeState) -> float:
    """How long a transcode or a shard takes an idle node; for one run of a model in a unit of its own.

    That serves to compare nodes.
    """
    match work:
        case TranscodeWork():
            speed = node.offer.capability.encode_speed * (node.pace or 1.0)
            fetch = 0.0 if work.source in node.sources else work.bytes_needed / _FETCHED_A_SECOND
            return fetch + (effort(work) / speed if speed else _UNKNOWN_SPEED_SECONDS)
        case InferenceWork():
            speed = node.offer.capability.inference_speed
            return 1 / speed if speed else _UNKNOWN_SPEED_SECONDS
        case BatchWork():
            seconds = (work.cost_us + work.rows * ROW_US) / _MICRO
            speed = node.offer.capability.inference_speed
            return seconds * _USUAL_SPEED / speed if speed else _UNKNOWN_SPEED_SECONDS
        case _:
            assert_never(work)
