from dataclasses import replace

import pytest

from orchestrator.core.progress import NOT_BEGUN, JobProgress, job_progress, weight
from orchestrator.core.records import AttemptRecord, JobRecord, JobSnapshot, TaskRecord
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import ArtifactInput, AttemptState, JobState, TaskState, TranscodeRequest
from tandem.protocol.ladder import Window
from tests.fixtures.protocol import JOB, SHA, inference_work, transcode_work

NOW = 1000.0
REQUEST = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SHA))
RECORD = JobRecord(JOB, "local", REQUEST, JobState.RUNNING, price=100, created_at=NOW)
WORK = transcode_work()


def task(index: int, state: TaskState, seconds: int = 2) -> TaskRecord:
    work = WORK.model_copy(update={"clip": Window(start_us=0, end_us=seconds * 10**6)})
    return TaskRecord(task_id(JOB, index), work, state, 10)


def attempt(
    index: int, state: AttemptState = AttemptState.RUNNING, number: int = 1, started: float = NOW - 10
) -> AttemptRecord:
    return AttemptRecord(AttemptRef(task=task_id(JOB, index), number=number), "0xA", state, 10, started, NOW + 30)


def progress(tasks: list[TaskRecord], attempts: list[AttemptRecord], *shown: int) -> JobProgress:
    said = {attempt.ref: permille for attempt, permille in zip(attempts, shown, strict=False)}
    weights = {each.id: weight(each) for each in tasks}
    return job_progress(JobSnapshot(RECORD, tuple(tasks), tuple(attempts)), weights, said, NOW)


def test_tasks_count_by_what_there_is_to_encode() -> None:
    tasks = [task(0, TaskState.DONE, 6), task(1, TaskState.ACTIVE, 2), task(2, TaskState.WAITING, 2)]
    found = progress(tasks, [attempt(0, AttemptState.ACCEPTED), attempt(1)], 0, 500)
    assert found.permille == (6 * 1000 + 2 * 500) // 10
    assert {each.permille for each in found.renditions} == {700}


def test_while_a_node_says_nothing_the_average_counts() -> None:
    tasks = [task(0, TaskState.DONE), task(1, TaskState.ACTIVE)]
    found = progress(tasks, [attempt(0, AttemptState.ACCEPTED, started=NOW - 5), attempt(1, started=NOW - 1)])
    assert found.remaining == pytest.approx(5)
    assert found.speed == pytest.approx(0.1 * 2)


def test_time_left_and_speed_follow_from_the_present_rate_of_all_nodes() -> None:
    tasks = [task(index, TaskState.ACTIVE) for index in range(2)]
    found = progress(tasks, [attempt(0), attempt(1)], 500, 250)
    # Of 2 tasks 0.75 are done in 10 s, at 0.0375 of the whole a second; the slower one alone takes 30 s more.
    assert found.remaining == pytest.approx(30)
    assert found.speed == pytest.approx(0.0375 * 2)
    assert progress(tasks, [attempt(0), attempt(1)], 500, 500).remaining == pytest.approx(10)


def test_of_two_attempts_the_better_counts() -> None:
    second = attempt(0, number=2, started=NOW - 4)
    found = progress([task(0, TaskState.ACTIVE)], [attempt(0), second], 100, 400)
    assert found.permille == 400
    assert found.remaining == pytest.approx(6)


def test_what_is_verified_is_done_but_the_job_is_not() -> None:
    found = progress([task(0, TaskState.ACTIVE)], [attempt(0, AttemptState.VERIFYING)])
    assert (found.permille, found.remaining) == (999, 0.0)


def test_nothing_is_told_of_what_nobody_has_begun() -> None:
    found = progress([task(0, TaskState.WAITING)], [])
    assert (found.permille, found.remaining, found.speed) == (0, None, None)
    assert progress([], []) == NOT_BEGUN


def test_a_model_has_no_renditions() -> None:
    model = replace(task(0, TaskState.ACTIVE), work=inference_work())
    found = progress([model], [attempt(0)], 500)
    assert (found.permille, found.speed, found.renditions) == (500, None, ())
