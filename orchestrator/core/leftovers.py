"""What a job needs to be tried again; and what one that is over has no more use for: windows, sound, shards, rows."""

from collections.abc import Iterator

from orchestrator.core.assembling import passed_on
from orchestrator.core.records import JobSnapshot
from tandem.protocol.jobs import (
    ArtifactInput,
    AttemptState,
    BatchWork,
    InferenceRequest,
    JobState,
    TranscodeWork,
    inputs_of,
)
from tandem.protocol.outputs import BatchOutput, TranscodeOutput

_SETTLED = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})
"""A job that failed can be tried again, and then goes on from what is made."""


def needed(snapshot: JobSnapshot) -> tuple[str, ...]:
    """Artifacts without which a job cannot be tried again, nor put together with what it has made already."""
    given = (artifact for task in snapshot.tasks for artifact in inputs_of(task.work))
    return tuple(dict.fromkeys((*given, *_accepted(snapshot))))


def leftovers(snapshot: JobSnapshot) -> tuple[str, ...]:
    """Artifacts that are neither what was given nor, but for files of the job's folder, what is asked for."""
    if snapshot.job.state not in _SETTLED:
        return ()
    kept = {*_given(snapshot), *(file.artifact for file in passed_on(snapshot))}
    return tuple(dict.fromkeys(made for made in _made(snapshot) if made not in kept))


def _given(snapshot: JobSnapshot) -> Iterator[str]:
    request = snapshot.job.request
    if not isinstance(request, InferenceRequest) and isinstance(request.input, ArtifactInput):
        yield request.input.artifact
    for task in snapshot.tasks:
        if isinstance(task.work, TranscodeWork):
            yield from inputs_of(task.work)


def _made(snapshot: JobSnapshot) -> Iterator[str]:
    for task in snapshot.tasks:
        if isinstance(task.work, BatchWork):
            yield task.work.source
    yield from _accepted(snapshot)


def _accepted(snapshot: JobSnapshot) -> Iterator[str]:
    for attempt in snapshot.attempts:
        if attempt.state is AttemptState.ACCEPTED and isinstance(attempt.output, TranscodeOutput | BatchOutput):
            yield from (file.artifact for file in attempt.output.files)
