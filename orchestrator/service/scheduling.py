"""Hands waiting tasks to nodes, again after every change."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.core.blame import failed_on
from orchestrator.core.lifecycle import Assigned, Broken
from orchestrator.core.records import AttemptRecord, Failure, JobSnapshot, ReadyTask, TaskRecord
from orchestrator.core.scheduling import Assignment, Load, Reason, assign, explain
from orchestrator.core.speculation import second_attempts
from orchestrator.core.verification import upload_limit
from orchestrator.ports.store import Store
from orchestrator.ports.urls import Urls
from orchestrator.service.lifecycle import Lifecycle
from orchestrator.service.nodes import Nodes
from orchestrator.service.tracking import Tracker
from tandem.protocol.errors import AttemptReturned, NotFound, StaleAttempt
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import AnyWork, BatchWork, InferenceWork, TaskState, TranscodeWork, source_of
from tandem.protocol.messages import MAX_SECONDS, Assign
from tandem.protocol.models import ModelFile
from tandem.waiting import Bell

_BATCH = 64
_IDLE_SECONDS = 5.0
_DOUBT_SECONDS = 1.0
"""How often attempts are looked at that may lag, while a node is free."""
_MICROSECONDS = 10**6


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. What an attempt may take: `base`, and so many times the source's own duration."""

    lease: float
    start_to_finish_base: float
    start_to_finish_factor: float

    def start_to_finish(self, work: AnyWork) -> float:
        duration = work.duration_us if isinstance(work, TranscodeWork) else work.cost_us
        return min(MAX_SECONDS, self.start_to_finish_base + self.start_to_finish_factor * duration / _MICROSECONDS)

    def deadline(self, attempt: AttemptRecord, work: AnyWork) -> float:
        """Store time at which even a node that was told late should have given the attempt up by itself."""
        return attempt.started_at + self.start_to_finish(work) + self.lease


class Scheduler:
    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        lifecycle: Lifecycle,
        tracker: Tracker,
        urls: Urls,
        bell: Bell,
        timeouts: Timeouts,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._lifecycle = lifecycle
        self._tracker = tracker
        self._urls = urls
        self._bell = bell
        self._timeouts = timeouts

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while await self.place():
                pass
            await self.double()
            await self._bell.wait(await self._pause())

    async def place(self) -> int:
        """One round: how many attempts were handed out."""
        placed, last = 0, None
        # Tasks that no node can take must not stand in the way of younger ones.
        while self._free():
            ready = await self._store.ready(_BATCH, last)
            tasks = {waiting.task.id: waiting.task for waiting in ready}
            async with asyncio.TaskGroup() as handing_out:  # side by side, so that they share commits
                handed = [
                    handing_out.create_task(self._hand_out(assignment, tasks[assignment.task]))
                    for assignment in assign(ready, self._nodes.states())
                ]
            placed += sum(task.result() for task in handed)
            if len(ready) < _BATCH:
                break
            last = ready[-1].task.id
        return placed

    async def double(self) -> int:
        """Begins attempts that lag a second time elsewhere, where nothing waits for that node: how many."""
        running = {each.attempt.ref: each for each in self._tracker.running()} if self._free() else {}
        if not running:
            return 0
        states = self._nodes.states()
        doubled = 0
        for second in second_attempts(list(running.values()), states, await self._store.now()):
            doubled += await self._hand_out(second.assignment, running[second.beside].task, second.beside)
        return doubled

    def _free(self) -> bool:
        return any(node.state().has_room for node in self._nodes)

    def explain(self, snapshot: JobSnapshot) -> dict[str, dict[str, tuple[Reason, ...]]]:
        """For each waiting task of a job and each connected node, why it is not there."""
        states = self._nodes.states()
        waiting = (task for task in snapshot.tasks if task.state is TaskState.WAITING)
        return {task.id: explain(ReadyTask(task, failed_on(snapshot.attempts_of(task.id))), states) for task in waiting}

    async def _hand_out(self, assignment: Assignment, task: TaskRecord, beside: AttemptRef | None = None) -> bool:
        node = self._nodes.get(assignment.node)
        if node is None or not node.is_payable:  # it is gone, or only just back and not yet welcomed
            return False
        event = Assigned(assignment.task, assignment.node, assignment.price, self._timeouts.lease, beside)
        # Between the commit and the message nothing is awaited, or a cancellation could overtake the assignment.
        tensors = await self._store.inputs(task.id) if isinstance(task.work, InferenceWork) else ()
        try:
            changes = await self._lifecycle.apply(job_of(assignment.task), event)
        except (StaleAttempt, NotFound):  # cancelled meanwhile
            self._tracker.forget(job_of(assignment.task))
            return False
        (attempt,) = changes.attempts
        if self._nodes.get(assignment.node) is not node:
            await self._take_back(attempt)
            return False
        deadline = self._timeouts.deadline(attempt, task.work)
        node.loads[attempt.ref] = Load(assignment.need, assignment.price, deadline)
        if not (isinstance(task.work, BatchWork) or (isinstance(task.work, TranscodeWork) and task.work.ranges)):
            node.fetches(source_of(task.work))
        node.link.send(self._message(attempt, task.work), tensors)
        return True

    async def _take_back(self, attempt: AttemptRecord) -> None:
        """Of a node whose session ended before it heard of the attempt, which is not its fault."""
        unheard = Failure(AttemptReturned.code, "the node's session ended before it was told", retryable=True)
        with suppress(StaleAttempt, NotFound):  # its new session may have found out first
            await self._lifecycle.apply(job_of(attempt.ref.task), Broken(attempt.ref, attempt.node, unheard))

    def _message(self, attempt: AttemptRecord, work: AnyWork) -> Assign:
        until = self._timeouts.deadline(attempt, work)
        return Assign(
            ref=attempt.ref,
            work=work,
            price=attempt.price,
            start_to_finish=self._timeouts.start_to_finish(work),
            source_url=self._urls.download(source_of(work), until),
            model_url=self._urls.download(work.model, until) if isinstance(work, BatchWork) else None,
            file_urls=tuple(self._urls.download(file.artifact, until) for file in _files(work)),
            watermark_url=self._watermark_url(work, until),
            upload_urls=self._upload_urls(attempt.ref, work, until),
        )

    def _watermark_url(self, work: AnyWork, until: float) -> str | None:
        watermark = work.picture.watermark if isinstance(work, TranscodeWork) else None
        return self._urls.download(watermark.artifact, until) if watermark else None

    def _upload_urls(self, ref: AttemptRef, work: AnyWork, until: float) -> dict[str, str]:
        if isinstance(work, InferenceWork):
            return {}
        return {name: self._urls.upload(ref, name, upload_limit(work, name), until) for name in work.names}

    async def _pause(self) -> float:
        longest = _DOUBT_SECONDS if self._free() and any(self._tracker.running()) else _IDLE_SECONDS
        next_ready = await self._store.next_ready_at()
        if next_ready is None:
            return longest
        return min(longest, max(0.01, next_ready - await self._store.now()))


def _files(work: AnyWork) -> tuple[ModelFile, ...]:
    return () if isinstance(work, TranscodeWork) else work.files
