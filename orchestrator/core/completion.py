"""Whether a job whose tasks are done is done itself: most results are parts, to be put together first."""

from typing import assert_never

from orchestrator.core.records import JobSnapshot
from tandem.protocol.jobs import AnyWork, BatchWork, InferenceWork, JobState, TaskState, TranscodeWork


def needs_assembly(snapshot: JobSnapshot) -> bool:
    """Whether the results of the tasks are not yet what the submitter asked for."""
    return any(_is_part(task.work) for task in snapshot.tasks)


def _is_part(work: AnyWork) -> bool:
    """Whether its result is not one that a submitter is given as it is."""
    match work:
        case TranscodeWork():
            return not work.direct or work.stills is not None
        case InferenceWork():
            return False
        case BatchWork():
            return True
        case _:
            assert_never(work)


def is_assembling(snapshot: JobSnapshot) -> bool:
    """Whether all its tasks are done, and it waits for what players open."""
    open_ = any(task.state in {TaskState.WAITING, TaskState.ACTIVE} for task in snapshot.tasks)
    return snapshot.job.state is JobState.VERIFYING and not open_ and needs_assembly(snapshot)
