"""How far a job is: from its tasks' states and what the nodes say of the attempts that run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.records import AttemptRecord, JobSnapshot, TaskRecord
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import AttemptState, BatchWork, TaskState, TranscodeWork
from tandem.protocol.placement import effort

_DONE = 1000
_ALMOST = 999
_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class RenditionProgress:
    name: str
    permille: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Thousandths of the whole; seconds left and speed where they can be told."""

    permille: int
    remaining: float | None = None
    speed: float | None = None
    """Seconds of the source a second, at present, by all nodes together."""
    renditions: tuple[RenditionProgress, ...] = ()
    fetched: int | None = None
    """Bytes of an input that is being fetched."""
    rows: tuple[int, int] | None = None
    """Of a batch: those that are done, and all."""


NOT_BEGUN = JobProgress(0)


@dataclass(frozen=True, slots=True)
class _Share:
    """One task's part of its job."""

    task: TaskRecord
    permille: int
    weight: int
    rate: float | None = 0.0
    """Thousandths a second; 0 if nobody works on it, None if nothing was said of it yet."""


def weight(task: TaskRecord) -> int:
    """Tasks count by what there is to encode, shards by their rows."""
    match task.work:
        case TranscodeWork() as work:
            return max(1, effort(work))
        case BatchWork(rows=rows):
            return rows
        case _:
            return 1


def job_progress(
    snapshot: JobSnapshot, weights: Mapping[str, int], shown: Mapping[AttemptRef, int], now: float
) -> JobProgress:
    """`weights`: of each task; `shown`: thousandths that the nodes last said of their attempts."""
    shares = [
        _share(task, weights[task.id], attempts, shown, now)
        for task, attempts in snapshot.with_attempts()
        if task.state is not TaskState.CANCELLED  # others were planned in its place
    ]
    if not shares:
        return NOT_BEGUN
    total = sum(share.weight for share in shares)
    rate = _rate(shares, total, now - min((each.started_at for each in snapshot.attempts), default=now))
    return JobProgress(
        permille=min(_ALMOST, _mean(shares)),
        remaining=_remaining(shares, rate),
        speed=rate / _DONE * _seconds(shares) or None,
        renditions=_renditions(shares),
        rows=_rows(shares),
    )


def _share(
    task: TaskRecord, weight: int, attempts: Sequence[AttemptRecord], shown: Mapping[AttemptRef, int], now: float
) -> _Share:
    if task.state is TaskState.DONE:
        return _Share(task, _DONE, weight)
    running = any(attempt.state is AttemptState.RUNNING for attempt in attempts)
    best, rate = 0, None if running else 0.0
    for attempt in attempts:
        if attempt.state is AttemptState.VERIFYING:
            return _Share(task, _DONE, weight)
        if attempt.state is AttemptState.RUNNING and shown.get(attempt.ref, 0) > best:
            best = shown[attempt.ref]
            rate = best / max(now - attempt.started_at, 0.001)
    return _Share(task, best, weight, rate)


def _rate(shares: Sequence[_Share], total: int, elapsed: float) -> float:
    """Thousandths of the job a second: what is shown at present, or what it was on average while some say nothing."""
    if any(share.rate is None for share in shares):
        return sum(share.weight * share.permille for share in shares) / total / max(elapsed, 0.001)
    return sum(share.weight * (share.rate or 0.0) for share in shares) / total


def _mean(shares: Sequence[_Share]) -> int:
    return sum(share.weight * share.permille for share in shares) // sum(share.weight for share in shares)


def _remaining(shares: Sequence[_Share], rate: float) -> float | None:
    """Seconds: as long as all that is open takes at the present rate of all, but at least as long as each takes."""
    if all(share.permille == _DONE for share in shares):
        return 0.0
    if not rate:
        return None
    total = sum(share.weight for share in shares)
    together = sum(share.weight * (_DONE - share.permille) for share in shares) / total / rate
    return max([together, *((_DONE - share.permille) / share.rate for share in shares if share.rate)])


def _seconds(shares: Sequence[_Share]) -> float:
    """Of the source, that the job is about."""
    works = [share.task.work for share in shares if isinstance(share.task.work, TranscodeWork)]
    return max((work.whole_us for work in works), default=0) / _MICRO


def _rows(shares: Sequence[_Share]) -> tuple[int, int] | None:
    counted = [share for share in shares if isinstance(share.task.work, BatchWork)]
    if not counted:
        return None
    done = sum(share.weight * share.permille // _DONE for share in counted)
    return done, sum(share.weight for share in counted)


def _renditions(shares: Sequence[_Share]) -> tuple[RenditionProgress, ...]:
    """Each by the tasks that it is made in; in the order in which they are named first."""
    by_name: dict[str, list[_Share]] = {}
    for share in shares:
        if isinstance(share.task.work, TranscodeWork):
            for rendition in share.task.work.video:
                by_name.setdefault(rendition.name, []).append(share)
    return tuple(RenditionProgress(name, min(_ALMOST, _mean(found))) for name, found in by_name.items())
