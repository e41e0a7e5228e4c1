"""Work at jobs beside their tasks, preparing and exporting: which is next, and what becomes of what failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.core.records import ExportRecord, PreparationRecord

Record = TypeVar("Record", PreparationRecord, ExportRecord)


@dataclass(frozen=True, slots=True)
class BacklogPolicy:
    concurrency: int = 8
    """Jobs that are worked at at the same time, of all owners."""
    per_owner: int = 4
    """Of one owner, whose slow servers must not hold up everybody."""
    tries: int = 5
    """Of a job, before a failure that might pass is taken for one that does not."""
    backoff: float = 2.0
    """Seconds before the second try; doubled for each one after."""
    backoff_max: float = 60.0


def due(records: Sequence[Record], running: Mapping[str, str], now: float, policy: BacklogPolicy) -> list[Record]:
    """Those to begin now, given the running ones as job and owner; of each owner the oldest first."""
    chosen, owners = list[Record](), Counter(running.values())
    for record in records:
        if len(running) + len(chosen) >= policy.concurrency:
            break
        if record.job not in running and record.not_before <= now and owners[record.owner] < policy.per_owner:
            chosen.append(record)
            owners[record.owner] += 1
    return chosen


def next_due(records: Sequence[Record], now: float) -> float | None:
    """When the first of those that back off is due."""
    return min((record.not_before for record in records if record.not_before > now), default=None)


def after_failure(record: Record, now: float, policy: BacklogPolicy, *, retryable: bool) -> Record | None:
    """The record as it waits for its next try; None if there is none."""
    tries = record.tries + 1
    if not retryable or tries >= policy.tries:
        return None
    pause = min(policy.backoff_max, policy.backoff * 2.0 ** (tries - 1))
    return replace(record, tries=tries, not_before=now + pause)
