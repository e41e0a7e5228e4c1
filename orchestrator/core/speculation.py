"""Which attempts lag, so that their task is begun a second time elsewhere: pure, from what the nodes said of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.core.records import AttemptRecord, ReadyTask, TaskRecord
from orchestrator.core.scheduling import Assignment, NodeState, assign, expected_seconds
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import InferenceWork

_DONE = 1000
_LEAST_ELAPSED = 3.0
"""Seconds that an attempt is left alone: what it says at its start means little."""
_GAIN = 1.5
"""A second attempt must be expected to end in so much less time than the first."""
_MARGIN = 2.0
"""And so many seconds earlier besides."""
_GONE = 3.0
"""Seconds of silence after which a node without a session is not waited for."""
_STALLED = 15.0
"""Seconds of silence after which an attempt on a connected node stands still."""
_DOUBTFUL_PACE = 0.2
"""Of a node's measured speed, where no other node's work has shown how hard the job is, or how busy machines are."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task with the one attempt that runs at it, and what its node last said of it."""

    task: TaskRecord
    attempt: AttemptRecord
    failed_on: tuple[str, ...]
    permille: int
    heard_at: float
    """Store time of the last word, or of its start."""


@dataclass(frozen=True, slots=True)
class Second:
    """A second attempt, beside the one that lags."""

    assignment: Assignment
    beside: AttemptRef


def second_attempts(running: Sequence[RunningTask], nodes: Sequence[NodeState], now: float) -> list[Second]:
    """Attempts to begin beside those that lag, the worst first, on nodes that are free and would end sooner.

    To be asked only when no task waits that these nodes would take.
    """
    free = {node.address: node for node in nodes}
    paces = _paces(running, free, now)
    old = [each for each in running if now - each.attempt.started_at > _LEAST_ELAPSED]
    found: list[Second] = []
    for left, each in sorted(((_remaining(each, free, now), each) for each in old), key=lambda pair: -pair[0]):
        others = {address: pace for address, pace in paces.items() if address != each.attempt.node}
        typical = median(others.values()) if others else _DOUBTFUL_PACE
        chosen = _choose(each, left, [node.paced(paces.get(node.address, typical)) for node in free.values()])
        if chosen is not None:
            found.append(Second(chosen, each.attempt.ref))
            del free[chosen.node]  # one at a time
    return found


def _choose(each: RunningTask, left: float, nodes: Sequence[NodeState]) -> Assignment | None:
    unsuited = {each.attempt.node, *each.failed_on}
    others = [node for node in nodes if node.address not in unsuited]
    chosen = next(iter(assign([ReadyTask(each.task)], others)), None)
    if chosen is None:
        return None
    node = next(node for node in others if node.address == chosen.node)
    return chosen if left > _GAIN * expected_seconds(each.task.work, node) + _MARGIN else None


def _remaining(each: RunningTask, nodes: Mapping[str, NodeState], now: float) -> float:
    """Seconds that the attempt still takes; infinite if it stands still."""
    elapsed, silence = now - each.attempt.started_at, now - each.heard_at
    node = nodes.get(each.attempt.node)
    if node is None:
        return math.inf if silence > _GONE else 0.0
    if not each.permille:
        expected = expected_seconds(each.task.work, node)
        return math.inf if elapsed > 2 * expected + _STALLED else max(0.0, expected - elapsed)
    if silence > _STALLED and each.permille < _DONE:
        return math.inf
    return elapsed * (_DONE - each.permille) / each.permille


def _paces(running: Sequence[RunningTask], nodes: Mapping[str, NodeState], now: float) -> dict[str, float]:
    """How much faster nodes are than they measured themselves, as far as their work has shown it."""
    paces = {node.address: node.pace for node in nodes.values() if node.pace is not None}
    for each in running:
        node, elapsed = nodes.get(each.attempt.node), now - each.attempt.started_at
        if node is not None and node.pace is None and each.permille and elapsed > _LEAST_ELAPSED:
            paces[node.address] = expected_seconds(each.task.work, node) * each.permille / _DONE / elapsed
    return paces


def is_speculable(task: TaskRecord) -> bool:
    """Whether a second attempt at it is ever worth its price: a single run of a model is too short for that."""
    return not isinstance(task.work, InferenceWork)
