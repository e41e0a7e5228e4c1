"""Carries events to the jobs they are about, and what follows to everyone concerned.

The decision is pure (`core.lifecycle`), the write is one transaction; here the nodes are told, the scheduler and the
payer are woken, and those who watch the job hear of it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.core import lifecycle
from orchestrator.core.blame import RetryPolicy, scores
from orchestrator.core.completion import is_assembling, needs_assembly
from orchestrator.core.lifecycle import Accepted, Event, Shown
from orchestrator.core.records import AttemptRecord, JobChanges, JobRecord, JobSnapshot
from orchestrator.core.scheduling import expected_seconds
from orchestrator.ports.store import Store
from orchestrator.service.events import JobEvents
from orchestrator.service.nodes import Nodes
from orchestrator.service.tracking import Tracker
from tandem import logging as log
from tandem.protocol.errors import NotFound, StaleAttempt
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import AttemptState, JobState, TaskState, TranscodeWork
from tandem.protocol.messages import Cancel, Verdict

logger = logging.getLogger(__name__)

_SHORTEST = 0.1
"""Seconds: what took less says nothing of a node's speed."""


def _nobody() -> None:
    """Is not rung."""


@dataclass(frozen=True, slots=True)
class Bells:
    """Rung when there is something to do for another service."""

    tasks_waiting: Callable[[], None] = _nobody
    money_owed: Callable[[], None] = _nobody
    to_assemble: Callable[[str], None] = lambda _job: None
    """Given a job of which there is more to be put together."""
    to_deliver: Callable[[], None] = _nobody
    """A webhook."""
    to_export: Callable[[], None] = _nobody


class Lifecycle:
    def __init__(
        self, store: Store, nodes: Nodes, events: JobEvents, tracker: Tracker, policy: RetryPolicy, bells: Bells
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._events = events
        self._tracker = tracker
        self._policy = policy
        self._bells = bells

    async def apply(self, job: str, event: Event) -> JobChanges:
        """One event to one job. Raises StaleAttempt, Conflict or NotFound; then nothing has changed."""
        (changes,) = await self.apply_all([(job, event)])
        return changes

    async def apply_all(self, pairs: Sequence[tuple[str, Event]]) -> list[JobChanges]:
        """Several events, each to a job of its own, in one transaction."""
        by_job = {job: self._with_rivals(event) for job, event in pairs}
        seen: dict[str, tuple[JobSnapshot, float]] = {}

        def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
            seen[snapshot.job.id] = snapshot, now
            return lifecycle.decide(snapshot, by_job[snapshot.job.id], now, self._policy)

        all_changes = await self._store.decide(list(by_job), decide)
        for job, changes in zip(by_job, all_changes, strict=True):
            snapshot, now = seen[job]
            self._tell(lifecycle.changed(snapshot, changes), changes, now)
        return all_changes

    def _with_rivals(self, event: Event) -> Event:
        """What runs beside an attempt that is accepted is paid for what it showed, if its node is here to be told."""
        if not isinstance(event, Accepted):
            return event
        shown = {}
        for task, rival in self._tracker.rivals(event.ref):
            node = self._nodes.get(rival.node)
            if node is not None:
                seconds = expected_seconds(task.work, node.state())
                shown[rival.ref] = Shown(self._tracker.shown(rival.ref), seconds)
        return replace(event, shown=shown)

    async def report(self, node: str, ref: AttemptRef, event: Event) -> JobChanges | None:
        """An event that a node reports. A stale one is answered with the verdict that stands, and is None."""
        try:
            return await self.apply(job_of(ref.task), event)
        except (StaleAttempt, NotFound) as error:
            await self._repeat_verdict(node, ref, error)
            return None

    async def cancel(self, job: str) -> None:
        """Raises NotFound, or Conflict if the job is over."""
        await self.apply(job, lifecycle.Cancelled())

    async def remind(self, node: str, ref: AttemptRef) -> None:
        """Tells a node that has returned with an attempt what that has earned, if it was cancelled meanwhile."""
        attempt, connected = await self._find(ref), self._nodes.get(node)
        if attempt is not None and connected is not None and attempt.node == node and attempt.earned:
            connected.link.send(_answer(attempt))

    async def _repeat_verdict(self, node: str, ref: AttemptRef, error: StaleAttempt | NotFound) -> None:
        connected = self._nodes.get(node)
        attempt = await self._find(ref)
        if connected is None or (attempt is not None and attempt.state is AttemptState.VERIFYING):
            return
        its_own = attempt if attempt is not None and attempt.node == node else None
        accepted = its_own is not None and its_own.state is AttemptState.ACCEPTED
        earned = its_own.earned if its_own else 0
        code = None if accepted else error.code
        connected.link.send(Verdict(ref=ref, accepted=accepted, price=earned, code=code, detail=error.detail))

    async def _find(self, ref: AttemptRef) -> AttemptRecord | None:
        try:
            return (await self._store.job(job_of(ref.task))).attempt(ref)
        except NotFound:
            return None

    def _tell(self, snapshot: JobSnapshot, changes: JobChanges, now: float) -> None:
        job = snapshot.job.id
        self._tracker.update(snapshot)
        for attempt in changes.attempts:
            self._attempt_changed(attempt, snapshot, now)
        if changes.job is not None:
            self._job_changed(changes.job)
        progress = self._tracker.progress(job, now)
        if progress is not None and progress.permille > self._events.progress(job).permille:
            self._events.publish_progress(job, progress)
        if changes.earned:
            self._bells.money_owed()
        if (changes.earned and needs_assembly(snapshot)) or is_assembling(snapshot):
            self._bells.to_assemble(job)
        if _makes_room(changes):
            self._bells.tasks_waiting()

    def _job_changed(self, job: JobRecord) -> None:
        self._events.publish_state(job.id, job.state)
        if job.webhook is not None:
            self._bells.to_deliver()
        if job.state is JobState.EXPORTING:
            self._bells.to_export()

    def _attempt_changed(self, attempt: AttemptRecord, snapshot: JobSnapshot, now: float) -> None:
        if attempt.state is AttemptState.RUNNING:
            return
        if attempt.state is AttemptState.VERIFYING:
            self._nodes.idle(attempt.node, attempt.ref)
            self._time(attempt, snapshot, now)
            return
        self._nodes.release(attempt.node, attempt.ref)
        _log(attempt)
        for address, accepted in scores(attempt, snapshot.attempts_of(attempt.ref.task)):
            scored = self._nodes.get(address)
            if scored is not None:
                scored.score(accepted=accepted)
        node = self._nodes.get(attempt.node)
        if node is None:
            return
        node.unpaid += attempt.earned
        node.link.send(_answer(attempt))

    def _time(self, attempt: AttemptRecord, snapshot: JobSnapshot, now: float) -> None:
        """A node that has just finished a transcode has shown how fast it is."""
        node, task = self._nodes.get(attempt.node), snapshot.task(attempt.ref.task)
        if node is not None and task is not None and isinstance(task.work, TranscodeWork):
            promised = expected_seconds(task.work, node.state().paced(1.0))
            node.timed(promised / max(now - attempt.started_at, _SHORTEST))


def _makes_room(changes: JobChanges) -> bool:
    """For the scheduler. A new attempt takes room, and an accepted one has taken none since it was delivered."""
    waiting = any(task.state is TaskState.WAITING for task in (*changes.tasks, *changes.planned))
    return waiting or any(a.state not in {AttemptState.RUNNING, AttemptState.ACCEPTED} for a in changes.attempts)


def _answer(attempt: AttemptRecord) -> Verdict | Cancel:
    if attempt.state is AttemptState.CANCELLED:
        return Cancel(ref=attempt.ref, price=attempt.earned, reason="the task or its job is over")
    failure = attempt.failure
    return Verdict(
        ref=attempt.ref,
        accepted=attempt.state is AttemptState.ACCEPTED,
        price=attempt.earned,
        code=failure.code if failure else None,
        detail=failure.detail[:4096] if failure else "",
    )


def _log(attempt: AttemptRecord) -> None:
    log.event(
        logger,
        "attempt",
        attempt=str(attempt.ref),
        node=attempt.node,
        state=attempt.state,
        seconds=round((attempt.finished_at or attempt.started_at) - attempt.started_at, 3),
        price_wei=attempt.earned,
        code=attempt.failure.code if attempt.failure else None,
    )
