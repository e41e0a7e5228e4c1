from collections.abc import Mapping
from enum import StrEnum

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.errors import InvalidTransition
from tandem.protocol.jobs import (
    ATTEMPT_TRANSITIONS,
    JOB_TRANSITIONS,
    TASK_TRANSITIONS,
    AttemptState,
    JobRequest,
    JobState,
    TaskState,
    TranscodeRequest,
    is_final,
    step,
)
from tests.fixtures.protocol import SHA


@pytest.mark.parametrize("table", [JOB_TRANSITIONS, TASK_TRANSITIONS, ATTEMPT_TRANSITIONS])
def test_every_state_has_its_row_and_can_be_reached(table: Mapping[StrEnum, frozenset[StrEnum]]) -> None:
    (kind,) = {type(state) for state in table}
    assert list(table) == list(kind)
    start = next(iter(table))
    assert frozenset().union(*table.values()) >= set(kind) - {start}
    assert not any(state in targets for state, targets in table.items())


def test_final_states() -> None:
    assert {state for state in JobState if is_final(JOB_TRANSITIONS, state)} == {"succeeded", "failed", "cancelled"}
    assert {state for state in TaskState if not is_final(TASK_TRANSITIONS, state)} == {"waiting", "active"}
    assert {state for state in AttemptState if not is_final(ATTEMPT_TRANSITIONS, state)} == {"running", "verifying"}


def test_steps_that_the_table_lacks_are_refused() -> None:
    assert step(JOB_TRANSITIONS, JobState.QUEUED, JobState.RUNNING) is JobState.RUNNING
    assert step(JOB_TRANSITIONS, JobState.FAILED, JobState.FAILED) is JobState.FAILED
    with pytest.raises(InvalidTransition, match="nothing, it is final; got running"):
        step(JOB_TRANSITIONS, JobState.SUCCEEDED, JobState.RUNNING)
    with pytest.raises(InvalidTransition, match="one of: active, cancelled, failed; got done"):
        step(TASK_TRANSITIONS, TaskState.WAITING, TaskState.DONE)


REQUEST: TypeAdapter[object] = TypeAdapter(JobRequest)


def test_a_transcode_needs_nothing_but_its_input() -> None:
    request = REQUEST.validate_python({"kind": "transcode", "input": {"artifact": SHA}})
    assert isinstance(request, TranscodeRequest)
    assert request.ladder is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"kind": "mine"},
        {"kind": "transcode"},
        {"kind": "transcode", "input": {"artifact": "file:/etc/passwd"}},
        {"kind": "transcode", "input": {"artifact": SHA}, "extra": 1},
        {"kind": "transcode", "input": {"artifact": SHA}, "ladder": []},
        {"kind": "transcode", "input": {"artifact": SHA}, "ladder": [{"height": 360}] * 13},
        {"kind": "transcode", "input": {"artifact": SHA}, "ladder": [{"height": 360, "name": "-vf"}]},
        {"kind": "transcode", "input": {"artifact": SHA}, "ladder": [{"height": 360, "video": {"fps": float("inf")}}]},
        {"kind": "transcode", "input": {"artifact": SHA}, "ladder": [{"height": 360, "video": {"fps": "25/0"}}]},
        {"kind": "inference", "model": "m", "inputs": []},
        {"kind": "inference", "model": "../m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [0], "data": []}]},
    ],
)
def test_requests_that_do_not_follow_the_schema(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        REQUEST.validate_python(wrong)
