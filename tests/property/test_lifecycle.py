"""The lifecycle of a job as a state machine: whatever happens in whatever order, its rules hold."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.blame import DECLINED, RetryPolicy, failed_on
from orchestrator.core.lifecycle import (
    Abandoned,
    Accepted,
    Assigned,
    Broken,
    Cancelled,
    Event,
    Expired,
    Finished,
    Rejected,
    Retried,
    Shown,
    decide,
)
from orchestrator.core.records import AttemptRecord, Failure, JobChanges, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.errors import Conflict, ExecutionFailed, StaleAttempt
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import (
    ATTEMPT_TRANSITIONS,
    JOB_TRANSITIONS,
    TASK_TRANSITIONS,
    ArtifactInput,
    AttemptState,
    JobState,
    TaskState,
    TranscodeRequest,
    is_final,
    step,
)
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.fixtures.protocol import JOB, SHA, transcode_work

WORK = transcode_work()
OUTPUT = TranscodeOutput(files=(FileResult(name="720p", artifact=SHA, size=1),))
NODES = ("0xA", "0xB", "0xC", "0xD")
LEASE = 30.0
PRICE = 997
POLICY = RetryPolicy(max_attempts=8)
LIVE = (AttemptState.RUNNING, AttemptState.VERIFYING)
FAULTS = st.sampled_from([*sorted(DECLINED), "child_crashed", ExecutionFailed.code])

tasks = st.integers(0, 2) | st.integers(3, 5)
nodes = st.sampled_from(NODES)
refs = st.builds(AttemptRef, task=tasks.map(lambda index: task_id(JOB, index)), number=st.integers(1, 9))


def failure(code: str) -> Failure:
    return Failure(code, "why", retryable=code != ExecutionFailed.code)


class JobMachine(RuleBasedStateMachine):
    """A store of one job, and everyone who may say something about it, rightly or not."""

    now = 1000.0

    @initialize(count=st.integers(1, 3))
    def submitted(self, count: int) -> None:
        request = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SHA))
        job = JobRecord(JOB, "local", request, JobState.QUEUED, price=1000, created_at=self.now)
        rows = tuple(TaskRecord(task_id(JOB, i), WORK, TaskState.WAITING, price=1000) for i in range(count))
        self.snapshot = JobSnapshot(job, rows, ())
        self.earned: Counter[AttemptRef] = Counter()
        self.paid = 0

    # What everyone may say at any time.

    @rule(task=tasks, node=nodes)
    def assign(self, task: int, node: str) -> None:
        row = self.snapshot.task(task_id(JOB, task))
        legal = row is not None and row.state is TaskState.WAITING
        self.say(Assigned(task_id(JOB, task), node, PRICE, LEASE), legal=legal)

    @rule(ref=refs, node=nodes)
    def assign_beside(self, ref: AttemptRef, node: str) -> None:
        live = [attempt for attempt in self.live() if attempt.ref.task == ref.task]
        legal = [a.ref for a in live] == [ref] and self.state(ref) is AttemptState.RUNNING and live[0].node != node
        self.say(Assigned(ref.task, node, PRICE, LEASE, beside=ref), legal=legal)

    @rule(ref=refs, node=nodes)
    def finish(self, ref: AttemptRef, node: str) -> None:
        self.say(Finished(ref, node, OUTPUT), legal=self.holds(ref, node))

    @rule(ref=refs, node=nodes, code=FAULTS)
    def give_up(self, ref: AttemptRef, node: str, code: str) -> None:
        self.say(Broken(ref, node, failure(code)), legal=self.holds(ref, node))

    @rule(ref=refs, permille=st.integers(0, 1000), seconds=st.sampled_from([0.0, 1.0, 60.0, math.inf]))
    def accept(self, ref: AttemptRef, permille: int, seconds: float) -> None:
        shown = {attempt.ref: Shown(permille, seconds) for attempt in self.live()}
        self.say(Accepted(ref, shown), legal=self.state(ref) is AttemptState.VERIFYING)

    @rule(ref=refs)
    def reject(self, ref: AttemptRef) -> None:
        self.say(Rejected(ref, failure("result_rejected")), legal=self.state(ref) is AttemptState.VERIFYING)

    @rule(ref=refs)
    def expire(self, ref: AttemptRef) -> None:
        attempt = self.snapshot.attempt(ref)
        late = attempt is not None and attempt.lease_until <= self.now
        self.say(Expired(ref), legal=late and self.state(ref) is AttemptState.RUNNING)

    @rule(ref=refs)
    def abandon(self, ref: AttemptRef) -> None:
        self.say(Abandoned(ref), legal=self.state(ref) is AttemptState.RUNNING)

    @rule(seconds=st.sampled_from([1.0, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.snapshot.attempts) > 2)
    @rule()
    def cancel(self) -> None:
        if self.snapshot.job.state in {JobState.SUCCEEDED, JobState.FAILED}:
            with pytest.raises(Conflict):
                decide(self.snapshot, Cancelled(), self.now, POLICY)
            return
        self.apply(decide(self.snapshot, Cancelled(), self.now, POLICY))
        assert self.snapshot.job.state is JobState.CANCELLED

    # What moves a job on, so that the deeper states are reached.

    @precondition(lambda self: self.live(AttemptState.RUNNING))
    @rule(data=st.data(), code=st.none() | FAULTS)
    def holder_speaks(self, data: st.DataObject, code: str | None) -> None:
        attempt = data.draw(st.sampled_from(self.live(AttemptState.RUNNING)))
        if code is None:
            self.finish(attempt.ref, attempt.node)
        else:
            self.give_up(attempt.ref, attempt.node, code)

    @precondition(lambda self: self.live(AttemptState.VERIFYING))
    @rule(data=st.data(), good=st.booleans())
    def verifier_speaks(self, data: st.DataObject, good: bool) -> None:
        attempt = data.draw(st.sampled_from(self.live(AttemptState.VERIFYING)))
        if good:
            self.accept(attempt.ref, data.draw(st.integers(0, 1000)), LEASE)
        else:
            self.reject(attempt.ref)

    @precondition(lambda self: self.live(AttemptState.RUNNING))
    @rule(data=st.data(), node=nodes)
    def scheduler_doubts(self, data: st.DataObject, node: str) -> None:
        self.assign_beside(data.draw(st.sampled_from(self.live(AttemptState.RUNNING))).ref, node)

    @precondition(lambda self: self.snapshot.job.state is JobState.FAILED and len(self.snapshot.tasks) < 5)
    @rule()
    def retry(self) -> None:
        first = len(self.snapshot.tasks)
        lacking = [task for task in self.snapshot.tasks if task.state is not TaskState.DONE]
        new = tuple(
            TaskRecord(task_id(JOB, first + index), WORK, TaskState.WAITING, price=1000)
            for index, _ in enumerate(lacking[-2:])
        )
        self.apply(decide(self.snapshot, Retried(new), self.now, POLICY))
        assert self.snapshot.job.state in {JobState.QUEUED, JobState.RUNNING}

    # The rules.

    @invariant()
    def at_most_two_live_attempts_a_task_on_different_nodes(self) -> None:
        for task in self.snapshot.tasks:
            attempts = self.snapshot.attempts_of(task.id)
            live = [attempt for attempt in attempts if attempt.state in LIVE]
            assert bool(live) == (task.state is TaskState.ACTIVE)
            assert len({attempt.node for attempt in live}) == len({attempt.lane for attempt in live}) == len(live) <= 2
            assert {attempt.lane for attempt in attempts} <= {0, 1}
            assert [attempt.ref.number for attempt in attempts] == list(range(1, len(attempts) + 1))

    @invariant()
    def nothing_is_earned_twice_and_only_beside_what_is_accepted(self) -> None:
        accepted = [a.ref for a in self.snapshot.attempts if a.state is AttemptState.ACCEPTED]
        done = [task.id for task in self.snapshot.tasks if task.state is TaskState.DONE]
        assert sorted(done) == sorted(ref.task for ref in accepted)
        for attempt in self.snapshot.attempts:
            assert (attempt.earned == PRICE) if attempt.ref in accepted else (0 <= attempt.earned <= PRICE)
            if attempt.earned:
                assert attempt.ref.task in done
                assert attempt.state in {AttemptState.ACCEPTED, AttemptState.CANCELLED}
        assert self.earned == Counter({a.ref: 1 for a in self.snapshot.attempts if a.earned})
        assert self.paid == sum(attempt.earned for attempt in self.snapshot.attempts)

    @invariant()
    def the_job_follows_its_tasks(self) -> None:
        job, states = self.snapshot.job, {task.state for task in self.snapshot.tasks}
        if job.state is not JobState.CANCELLED:  # else the tasks that are cancelled were replaced by others
            assert (job.state is JobState.SUCCEEDED) == (states - {TaskState.CANCELLED} == {TaskState.DONE})
        assert (job.state is JobState.FAILED) == (TaskState.FAILED in states) == (job.failure is not None)
        over = is_final(JOB_TRANSITIONS, job.state)
        assert over == (job.finished_at is not None)
        assert over == all(is_final(TASK_TRANSITIONS, state) for state in states)
        delivered = {attempt.ref.task for attempt in self.live(AttemptState.VERIFYING)}
        still_open = {task.id for task in self.snapshot.tasks if task.state in {TaskState.WAITING, TaskState.ACTIVE}}
        assert (job.state is JobState.VERIFYING) == (not over and delivered == still_open)

    @invariant()
    def a_task_that_failed_on_enough_nodes_is_not_tried_again(self) -> None:
        blamed = {AttemptState.FAILED, AttemptState.REJECTED, AttemptState.EXPIRED}
        for task in self.snapshot.tasks:
            attempts = self.snapshot.attempts_of(task.id)
            culprits = {attempt.node for attempt in attempts if attempt.state in blamed}
            given_up = len(culprits) >= POLICY.max_nodes or len(attempts) >= POLICY.max_attempts
            if given_up and not self.live():
                assert task.state is not TaskState.WAITING
            assert culprits <= set(failed_on(attempts))

    # The store.

    def live(self, *states: AttemptState) -> list[AttemptRecord]:
        return [attempt for attempt in self.snapshot.attempts if attempt.state in (states or LIVE)]

    def state(self, ref: AttemptRef) -> AttemptState | None:
        attempt = self.snapshot.attempt(ref)
        return attempt.state if attempt else None

    def holds(self, ref: AttemptRef, node: str) -> bool:
        attempt = self.snapshot.attempt(ref)
        return attempt is not None and attempt.node == node and attempt.state is AttemptState.RUNNING

    def say(self, event: Event, *, legal: bool) -> None:
        if legal:
            self.apply(decide(self.snapshot, event, self.now, POLICY))
            return
        with pytest.raises(StaleAttempt):
            decide(self.snapshot, event, self.now, POLICY)

    def apply(self, changes: JobChanges) -> None:
        """As the store does: whole rows, over such as the tables allow."""
        job, rows = self.snapshot.job, {task.id: task for task in self.snapshot.tasks}
        attempts = {attempt.ref: attempt for attempt in self.snapshot.attempts}
        if changes.job is not None:
            step(JOB_TRANSITIONS, job.state, changes.job.state)
        assert len({task.id for task in changes.tasks}) == len(changes.tasks)
        assert len({attempt.ref for attempt in changes.attempts}) == len(changes.attempts)
        for task in changes.tasks:
            step(TASK_TRANSITIONS, rows[task.id].state, task.state)
            rows[task.id] = task
        for attempt in changes.attempts:
            old = attempts.get(attempt.ref)
            if old is None:
                assert attempt.state is AttemptState.RUNNING
            else:
                assert old.state is not attempt.state
                step(ATTEMPT_TRANSITIONS, old.state, attempt.state)
                assert replace(old, state=attempt.state, output=attempt.output, failure=attempt.failure) == replace(
                    attempt, finished_at=None, earned=0
                )
            attempts[attempt.ref] = attempt
        self.earned.update(attempt.ref for attempt in changes.earned)
        self.paid += sum(attempt.earned for attempt in changes.earned)
        rows |= {task.id: task for task in changes.planned}
        self.snapshot = JobSnapshot(changes.job or job, tuple(rows.values()), tuple(attempts.values()))


TestJobs = JobMachine.TestCase
TestJobs.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
