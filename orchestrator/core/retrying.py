"""What a failed job still lacks, as new tasks: what is made is kept, what failed is tried rendition by rendition."""

from collections.abc import Iterator

from orchestrator.core.batches import done_shards
from orchestrator.core.records import JobSnapshot
from tandem.protocol.errors import Conflict
from tandem.protocol.jobs import BatchWork, JobState, TaskState, TranscodeWork
from tandem.protocol.ladder import Window

Part = tuple[Window | None, str]
"""A file of the job: the name of its rendition, and the window that it covers."""


def missing_works(snapshot: JobSnapshot) -> tuple[TranscodeWork, ...]:
    """Of a transcode. Raises Conflict for a job that has not failed, or is no transcode.

    A task that failed becomes one for each of its renditions, so that what fails again takes nothing along. One that
    was cancelled with the job stays as it was. Of earlier retries the newest tasks count.
    """
    _check_failed(snapshot)
    made: set[Part] = set()
    works: list[TranscodeWork] = []
    for task in reversed(snapshot.tasks):
        if not isinstance(task.work, TranscodeWork):
            raise Conflict("expected a transcode, got an inference; submit it again")
        parts = set(_parts(task.work))
        if task.state is not TaskState.DONE and not parts <= made:
            lacking = _only(task.work, {name for _, name in parts - made})
            works.extend(_apart(lacking) if task.state is TaskState.FAILED else [lacking])
        made |= parts
    return tuple(reversed(works))


def missing_shards(snapshot: JobSnapshot) -> tuple[BatchWork, ...]:
    """Of a batch, as they were cut at first. Raises Conflict for a job that has not failed, or not at its tasks."""
    _check_failed(snapshot)
    works = {task.work.span: task.work for task in snapshot.tasks if isinstance(task.work, BatchWork)}
    done = {shard.work.span for shard in done_shards(snapshot)}
    if not works:
        raise Conflict("expected a batch whose file could be read, got one that failed before; submit it again")
    return tuple(work for span, work in works.items() if span not in done)


def _check_failed(snapshot: JobSnapshot) -> None:
    if snapshot.job.state is not JobState.FAILED:
        raise Conflict(f"expected a job that has failed, got one that is {snapshot.job.state}; nothing to try again")


def _parts(work: TranscodeWork) -> Iterator[Part]:
    return ((work.window, name) for name in work.names)


def _apart(work: TranscodeWork) -> Iterator[TranscodeWork]:
    """One for each file, the last first; stills stay together."""
    stills = set(work.stills.names) if work.stills else set()
    units = [*({name} for name in work.names if name not in stills), *([stills] if stills else [])]
    return (_only(work, names) for names in reversed(units))


def _only(work: TranscodeWork, names: set[str]) -> TranscodeWork:
    video = tuple(each for each in work.video if each.name in names)
    heard = {name for each in video for name in each.audio} if work.direct else names
    changes = {
        "video": video,
        "audio": tuple(each for each in work.audio if each.name in heard),
        "subtitles": tuple(each for each in work.subtitles if each.name in names),
        "stills": work.stills if work.stills and not names.isdisjoint(work.stills.names) else None,
    }
    return work.model_copy(update=changes)
