"""What follows from attempts that ended badly: where a task should not go again, and whether it is tried again."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.records import AttemptRecord, Failure
from tandem.protocol.errors import (
    AttemptReturned,
    ExecutionFailed,
    ExposureExceeded,
    InvalidModel,
    InvalidTensor,
    JobFailed,
    NoCapacity,
    TooLarge,
    Unavailable,
    UnreadableMedia,
)
from tandem.protocol.jobs import AttemptState

DECLINED = frozenset({AttemptReturned.code, NoCapacity.code, ExposureExceeded.code, Unavailable.code})
"""Codes by which a node hands an attempt back without having failed it."""

INPUT_FAULTS = frozenset(
    error.code for error in (ExecutionFailed, InvalidModel, InvalidTensor, TooLarge, UnreadableMedia)
)
"""Codes by which nodes may agree that no other node will do better."""

_BLAMED = frozenset({AttemptState.FAILED, AttemptState.REJECTED, AttemptState.EXPIRED})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    max_nodes: int = 3
    """A task that failed on so many different nodes fails its job."""
    max_attempts: int = 20
    """However they ended."""
    confirmations: int = 2
    """How often a node must say that the input is at fault before it is believed."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled for each one after."""
    backoff_max: float = 30.0


def failed_on(attempts: Sequence[AttemptRecord]) -> tuple[str, ...]:
    """The nodes that failed a task or handed it back, each once, the one that did so last at the end.

    A node that hands back is not to blame, but the task should go elsewhere: it might do so again.
    """
    newest_first = sorted(attempts, key=lambda attempt: attempt.ref.number, reverse=True)
    ended = dict.fromkeys(a.node for a in newest_first if a.state in _BLAMED or a.state is AttemptState.RETURNED)
    return tuple(reversed(ended))


def scores(attempt: AttemptRecord, of_task: Sequence[AttemptRecord]) -> list[tuple[str, bool]]:
    """Whom an attempt that has ended speaks for or against: nodes, and whether for.

    Against a node that failed speaks only that another one could do the task: else anyone could bring nodes into
    disrepute, by inputs that are at fault themselves.
    """
    match attempt.state:
        case AttemptState.ACCEPTED:
            failed = (each.node for each in of_task if each.state is AttemptState.FAILED and each.node != attempt.node)
            return [(attempt.node, True), *((node, False) for node in dict.fromkeys(failed))]
        case AttemptState.FAILED:
            done = any(each.state is AttemptState.ACCEPTED for each in of_task)
            return [(attempt.node, False)] if done else []
        case AttemptState.REJECTED | AttemptState.EXPIRED:
            return [(attempt.node, False)]
        case _:
            return []


def giving_up(history: Sequence[AttemptRecord], policy: RetryPolicy) -> Failure | None:
    """Why the task is not tried again, or None if it is."""
    blamed = [attempt for attempt in history if attempt.state in _BLAMED and attempt.failure is not None]
    final = [attempt.failure for attempt in blamed if attempt.failure and attempt.failure.code in INPUT_FAULTS]
    if len(final) >= policy.confirmations:
        return final[-1]
    if len({attempt.node for attempt in blamed}) >= policy.max_nodes or len(history) >= policy.max_attempts:
        return Failure(JobFailed.code, _evidence(history), retryable=False)
    return None


def _evidence(history: Sequence[AttemptRecord]) -> str:
    told = [
        f"attempt {a.ref.number} on {a.node}: {a.failure.code}: {a.failure.detail[:300]}" for a in history if a.failure
    ]
    return f"{len(history)} attempts failed; the last of them: " + "; ".join(told[-3:])


def backoff(history: Sequence[AttemptRecord], policy: RetryPolicy) -> float:
    return min(policy.backoff_max, policy.backoff * 2.0 ** (len(history) - 1))
