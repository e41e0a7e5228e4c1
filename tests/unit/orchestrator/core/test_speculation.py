"""A node of the fixtures' offer takes 1 s for 10 megapixels; the task is 300 of them, 30 s."""

from dataclasses import replace

import pytest

from orchestrator.core.records import AttemptRecord, TaskRecord
from orchestrator.core.scheduling import Load, NodeState, expected_seconds
from orchestrator.core.speculation import RunningTask, second_attempts
from tandem.protocol.capacity import Capacity
from tandem.protocol.ids import AttemptRef, task_id
from tandem.protocol.jobs import AttemptState, TaskState
from tests.fixtures.protocol import JOB, offer, transcode_work

NOW = 1000.0
WORK = transcode_work()


def node(address: str, pace: float | None = None, *, busy: bool = False) -> NodeState:
    bare = NodeState(address, offer(), {})
    speed = int(expected_seconds(WORK, replace(bare, sources=frozenset({WORK.source}))) * 10**7 / 30)
    loads = {AttemptRef(task=task_id(JOB, 99), number=1): Load(Capacity(cpu=8000), 1)} if busy else {}
    return NodeState(address, offer(encode_speed=speed), loads, pace=pace, sources=frozenset({WORK.source}))


def running(
    index: int,
    address: str,
    permille: int,
    elapsed: float,
    silence: float = 0.5,
    failed_on: tuple[str, ...] = (),
) -> RunningTask:
    task = TaskRecord(task_id(JOB, index), WORK, TaskState.ACTIVE, 10**6)
    ref = AttemptRef(task=task.id, number=1)
    attempt = AttemptRecord(ref, address, AttemptState.RUNNING, 10, NOW - elapsed, NOW + 30)
    return RunningTask(task, attempt, failed_on, permille, NOW - silence)


def doubled(tasks: list[RunningTask], *nodes: NodeState) -> list[tuple[int, str]]:
    seconds = second_attempts(tasks, nodes, NOW)
    assert all(second.beside.task == second.assignment.task for second in seconds)
    return [(int(second.beside.task.rpartition(".")[2]), second.assignment.node) for second in seconds]


BUSY = node("0xA", busy=True)


def test_what_lags_is_begun_again_where_it_ends_sooner() -> None:
    assert doubled([running(0, "0xA", 100, 20)], BUSY, node("0xB", pace=1.0)) == [(0, "0xB")]


def test_without_the_work_of_others_only_a_very_slow_attempt_lags() -> None:
    assert doubled([running(0, "0xA", 100, 20)], BUSY, node("0xB")) == []
    assert doubled([running(0, "0xA", 50, 20)], BUSY, node("0xB")) == [(0, "0xB")]


@pytest.mark.parametrize(
    ("permille", "elapsed"),
    [(500, 15), (400, 30), (900, 200), (1000, 500), (0, 40), (100, 2)],
    ids=["on time", "not by enough", "nearly done", "uploading", "fetching", "just begun"],
)
def test_what_does_not_lag_is_left_alone(permille: int, elapsed: float) -> None:
    assert doubled([running(0, "0xA", permille, elapsed)], BUSY, node("0xB")) == []


@pytest.mark.parametrize(
    ("permille", "elapsed", "silence"), [(0, 80, 80), (500, 40, 16)], ids=["never began", "stands still"]
)
def test_what_stands_still_is_begun_again(permille: int, elapsed: float, silence: float) -> None:
    assert doubled([running(0, "0xA", permille, elapsed, silence)], BUSY, node("0xB")) == [(0, "0xB")]


def test_a_node_that_is_gone_is_waited_for_a_moment_only() -> None:
    assert doubled([running(0, "0xA", 900, 10, 2)], node("0xB")) == []
    assert doubled([running(0, "0xA", 900, 10, 4)], node("0xB")) == [(0, "0xB")]


def test_only_nodes_that_are_free_and_have_not_failed_it() -> None:
    slow = running(0, "0xA", 10, 60, failed_on=("0xC",))
    assert doubled([slow], BUSY, node("0xB", busy=True), node("0xC")) == []
    assert doubled([slow], BUSY) == []


def test_a_node_as_slow_as_the_one_that_lags_is_no_help() -> None:
    assert doubled([running(0, "0xA", 100, 20)], BUSY, node("0xB", pace=0.15)) == []


def test_if_all_are_slower_than_they_promised_none_lags() -> None:
    tasks = [running(0, "0xA", 100, 20), running(1, "0xC", 110, 20), running(2, "0xD", 90, 20)]
    nodes = [BUSY, node("0xB"), node("0xC", busy=True), node("0xD", busy=True)]
    assert doubled(tasks, *nodes) == []
    assert doubled([running(0, "0xA", 20, 20), *tasks[1:]], *nodes) == [(0, "0xB")]


def test_each_free_node_takes_one_the_worst_first() -> None:
    tasks = [running(0, "0xA", 100, 40), running(1, "0xA", 50, 40), running(2, "0xA", 80, 40)]
    assert [index for index, _ in doubled(tasks, BUSY, node("0xB", 1.0), node("0xC", 1.0))] == [1, 2]
