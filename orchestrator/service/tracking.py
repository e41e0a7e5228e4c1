"""What goes on right now: jobs that nodes work on, and what each node last said of its attempts. Nothing is kept.

After a restart a job is known again once one of its nodes is back, or something happens to it.
"""

from collections.abc import Iterator

from orchestrator.core.blame import failed_on
from orchestrator.core.progress import JobProgress, job_progress, weight
from orchestrator.core.records import AttemptRecord, JobSnapshot, TaskRecord
from orchestrator.core.speculation import RunningTask, is_speculable
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import JOB_TRANSITIONS, AttemptState, is_final

_ALL = 1000
_LIVE = frozenset({AttemptState.RUNNING, AttemptState.VERIFYING})


class Tracker:
    """All methods are synchronous, and belong to the event loop's thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobSnapshot] = {}
        self._weights: dict[str, dict[str, int]] = {}
        self._shown: dict[AttemptRef, int] = {}
        self._heard: dict[AttemptRef, float] = {}

    def update(self, snapshot: JobSnapshot) -> None:
        """A job as it now is; what is over is forgotten."""
        for attempt in snapshot.attempts:
            if attempt.state is AttemptState.VERIFYING:
                self._shown[attempt.ref] = _ALL
            elif attempt.state is not AttemptState.RUNNING:
                self._shown.pop(attempt.ref, None)
                self._heard.pop(attempt.ref, None)
        if is_final(JOB_TRANSITIONS, snapshot.job.state):
            self.forget(snapshot.job.id)
        else:
            self._jobs[snapshot.job.id] = snapshot
            known = self._weights.setdefault(snapshot.job.id, {})
            known.update({task.id: weight(task) for task in snapshot.tasks if task.id not in known})

    def restore(self, snapshot: JobSnapshot) -> None:
        """A job that a node returns to; what is known of it already is newer."""
        if snapshot.job.id not in self._jobs:
            self.update(snapshot)

    def forget(self, job: str) -> None:
        """It is not as it was thought to be."""
        self._jobs.pop(job, None)
        self._weights.pop(job, None)

    def said(self, ref: AttemptRef, permille: int, now: float) -> None:
        """A node's word of an attempt that runs there. Less than before is not believed."""
        self._shown[ref] = max(permille, self._shown.get(ref, 0))
        self._heard[ref] = now

    def shown(self, ref: AttemptRef) -> int:
        """Thousandths."""
        return self._shown.get(ref, 0)

    def progress(self, job: str, now: float) -> JobProgress | None:
        """None of a job on which nobody works."""
        snapshot = self._jobs.get(job)
        return None if snapshot is None else job_progress(snapshot, self._weights[job], self._shown, now)

    def running(self) -> Iterator[RunningTask]:
        """Tasks at which one attempt runs, and that a second one may be begun for."""
        for snapshot in self._jobs.values():
            for task, attempts in snapshot.with_attempts():
                live = [a for a in attempts if a.state in _LIVE]
                if len(live) == 1 and live[0].state is AttemptState.RUNNING and is_speculable(task):
                    heard = self._heard.get(live[0].ref, live[0].started_at)
                    yield RunningTask(task, live[0], failed_on(attempts), self.shown(live[0].ref), heard)

    def rivals(self, ref: AttemptRef) -> tuple[tuple[TaskRecord, AttemptRecord], ...]:
        """Attempts that run or are verified beside this one, with their task."""
        snapshot = self._jobs.get(job_of(ref.task))
        task = snapshot.task(ref.task) if snapshot else None
        if snapshot is None or task is None:
            return ()
        return tuple((task, a) for a in snapshot.attempts_of(task.id) if a.ref != ref and a.state in _LIVE)
