from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.ids import ArtifactId, AttemptRef, JobId, Name, TaskId, job_id, job_of, task_id
from tests.fixtures.protocol import JOB, REF, SHA, TASK


def test_job_ids_sort_by_time() -> None:
    early, late = job_id(1.0, b"\xff" * 8), job_id(1.5, bytes(8))
    assert early < late
    assert TypeAdapter(JobId).validate_python(early) == early


def test_job_ids_want_eight_random_bytes() -> None:
    with pytest.raises(ValueError, match="8 random bytes, got 7"):
        job_id(1.0, bytes(7))


def test_a_task_knows_its_job() -> None:
    assert TypeAdapter(TaskId).validate_python(task_id(JOB, 12)) == f"{JOB}.12"
    assert job_of(TASK) == JOB


def test_attempts_are_written_and_read() -> None:
    assert AttemptRef.parse(str(REF)) == REF
    assert {REF: 1}[AttemptRef.parse(f"{TASK}#1")] == 1


@pytest.mark.parametrize("text", ["", TASK, f"{TASK}#", f"{TASK}#0", f"{TASK}#-1", f"{TASK}#1\n", "job#1", f"{TASK}#²"])
def test_anything_else_is_no_attempt(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected TASK#NUMBER|validation error"):
        AttemptRef.parse(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ArtifactId, SHA + "\n"),
        (ArtifactId, SHA.upper()),
        (ArtifactId, SHA[:-1]),
        (JobId, JOB + "/.."),
        (Name, ".hidden"),
        (Name, "a/b"),
        (Name, "a b"),
        (Name, "x" * 65),
        (Name, "a\n"),
        (Name, ""),
    ],
)
def test_names_that_could_mean_something_else_are_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[str](kind).validate_python(text)
