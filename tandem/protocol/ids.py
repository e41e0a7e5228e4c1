"""Names of things: artifacts, jobs, tasks, attempts."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Frozen(BaseModel):
    """Base of everything on the wire: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Without what was worked out from the old values and kept."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(copy).model_fields.keys():
            del copy.__dict__[name]
        return copy


ARTIFACT_PATTERN = r"^sha256:[0-9a-f]{64}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

ArtifactId = Annotated[str, StringConstraints(pattern=ARTIFACT_PATTERN)]
"""The digest of an artifact's bytes: `sha256:` and 64 hexadecimal digits."""

JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{28}$")]
"""Sorts by time of creation."""

TaskId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{28}\.[0-9]{1,6}$")]
"""The job's id, a dot and the index of the task in its job."""

WindowId = Annotated[str, StringConstraints(pattern=r"^win_[0-9a-f]{28}$")]
"""Sorts by time of creation."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A name a person chose: letters, digits, dot, underscore, hyphen; at most 64."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]

_ENTROPY_BYTES = 8


def job_id(now: float, entropy: bytes) -> str:
    """The id of a job created at `now` (seconds since the epoch) with 8 random bytes."""
    return f"job_{_moment(now, entropy)}"


def window_id(now: float, entropy: bytes) -> str:
    """The id of a window of usage that ends at `now` (seconds since the epoch), with 8 random bytes."""
    return f"win_{_moment(now, entropy)}"


def _moment(now: float, entropy: bytes) -> str:
    if len(entropy) != _ENTROPY_BYTES:
        raise ValueError(f"expected {_ENTROPY_BYTES} random bytes, got {len(entropy)}")
    return f"{int(now * 1000):012x}{entropy.hex()}"


def task_id(job: str, index: int) -> str:
    return f"{job}.{index}"


def event_id(job: str, number: int) -> str:
    """The id of an event of a job, numbered from 1."""
    return f"evt_{job.removeprefix('job_')}_{number}"


def parse_event_id(text: str) -> tuple[str, int]:
    """The inverse of `event_id`; raises ValueError."""
    match = re.fullmatch(r"evt_([0-9a-f]{28})_([0-9]{1,9})", text)
    if match is None:
        raise ValueError(f"expected the id of an event, such as evt_…_1, got {text[:80]!r}")
    return f"job_{match[1]}", int(match[2])


def job_of(task: str) -> str:
    """The job that a task belongs to."""
    return task.rpartition(".")[0]


def index_of(task: str) -> int:
    """The place of a task in its job."""
    return int(task.rpartition(".")[2])


class AttemptRef(Frozen):
    """One numbered execution of a task. The number is the fencing token."""

    task: TaskId
    number: Annotated[int, Field(ge=1, lt=2**31)]

    def __str__(self) -> str:
        return f"{self.task}#{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; raises ValueError."""
        match = re.fullmatch(r"(.+)#([0-9]+)", text)
        if match is None:
            raise ValueError(f"expected TASK#NUMBER, got {text!r}")
        return cls(task=match[1], number=int(match[2]))

    def __hash__(self) -> int:
        return hash((self.task, self.number))
