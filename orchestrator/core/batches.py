"""What is there of a batch: which shards are done, and in which order their answers belong."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.core.packaging import JobFile
from orchestrator.core.records import JobSnapshot
from tandem.protocol.api import BatchResult
from tandem.protocol.jobs import AttemptState, BatchFormat, BatchWork, TaskState
from tandem.protocol.outputs import BatchOutput

FILES = {
    BatchFormat.JSONL: ("results.jsonl", "application/jsonl"),
    BatchFormat.NPZ: ("results.npz", "application/x-npz"),
    BatchFormat.ARROW: ("results.arrow", "application/vnd.apache.arrow.file"),
}
"""The name of what is put together in the job's folder, and its media type."""


@dataclass(frozen=True, slots=True)
class DoneShard:
    work: BatchWork
    output: BatchOutput


def done_shards(snapshot: JobSnapshot) -> list[DoneShard]:
    """In the order of their rows."""
    outputs = {a.ref.task: a.output for a in snapshot.attempts if a.state is AttemptState.ACCEPTED}
    found = [
        DoneShard(task.work, output)
        for task in snapshot.tasks
        if task.state is TaskState.DONE
        and isinstance(task.work, BatchWork)
        and isinstance(output := outputs.get(task.id), BatchOutput)
    ]
    return sorted(found, key=lambda shard: shard.work.span)


def batch_format(snapshot: JobSnapshot) -> BatchFormat | None:
    """Once the file was looked into."""
    return next((task.work.format for task in snapshot.tasks if isinstance(task.work, BatchWork)), None)


def total_rows(snapshot: JobSnapshot) -> int:
    """Rows that are run; of shards that were tried again, once."""
    return sum(work.rows for work in _works(snapshot))


def _works(snapshot: JobSnapshot) -> Collection[BatchWork]:
    """One for each shard."""
    return {task.work.span: task.work for task in snapshot.tasks if isinstance(task.work, BatchWork)}.values()


def batch_result(snapshot: JobSnapshot, files: Sequence[JobFile]) -> BatchResult | None:
    """Of a batch that is put together: `files` are those of its folder."""
    kind, shards = batch_format(snapshot), done_shards(snapshot)
    file = next((file for file in files if kind is not None and file.path == FILES[kind][0]), None)
    if file is None or kind is None:
        return None
    faulty = sum(work.faulty for work in _works(snapshot))
    return BatchResult(
        artifact=file.artifact,
        url=f"/v1/artifacts/{file.artifact}",
        format=kind,
        size=file.size,
        rows=total_rows(snapshot) + faulty,
        failed=faulty + sum(len(shard.output.failed) for shard in shards),
        providers=tuple(sorted({shard.output.provider for shard in shards})),
    )
