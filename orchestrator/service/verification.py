"""Judges results: nothing that a node says is believed before it was looked at."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from random import SystemRandom

from orchestrator.core.comparing import Draws, comparison, moment
from orchestrator.core.lifecycle import Accepted, Event, Rejected
from orchestrator.core.records import AttemptRecord, Failure, JobSnapshot
from orchestrator.core.transcoding import MAX_STILLS
from orchestrator.core.verification import (
    Found,
    check_answers,
    check_confirmed,
    check_content,
    check_files,
    check_outputs,
)
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.store import Store
from orchestrator.service.lifecycle import Lifecycle
from tandem.clock import Clock
from tandem.inspection.compared import Comparison
from tandem.inspection.images import jpegs
from tandem.protocol.errors import NotFound, ResultRejected, StaleAttempt, TandemError, Unavailable
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import AttemptState, BatchWork, InferenceWork, TranscodeWork
from tandem.protocol.outputs import BatchOutput, FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.rows import read_rows

_AGAIN_SECONDS = 2.0
_SYSTEM = SystemRandom()

CheckValues = Callable[[JobSnapshot, AttemptRecord, BatchWork, BatchOutput, Path], Awaitable[None]]
"""Raises ResultRejected if the answers in the file are not what the model gives."""


class Verifier:
    """Runs in the background, so that no session waits for a probe.

    `draw` says which pictures are compared with the source's: no node is to know it before it has delivered.
    """

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        inspector: Inspector,
        values: CheckValues,
        lifecycle: Lifecycle,
        clock: Clock,
        draw: Callable[[], float] = _SYSTEM.random,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector
        self._values = values
        self._lifecycle = lifecycle
        self._clock = clock
        self._draw = draw
        self._queue: asyncio.Queue[AttemptRef] = asyncio.Queue()

    def verify(self, ref: AttemptRef) -> None:
        self._queue.put_nowait(ref)

    async def run(self, workers: int = 2) -> None:
        """Until cancelled; first takes up what an earlier process had begun."""
        for attempt in await self._store.verifying():
            self.verify(attempt.ref)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            ref = await self._queue.get()
            try:
                await self.judge(ref)
            except StaleAttempt:  # cancelled meanwhile
                continue
            except Unavailable:  # the check could not run, which says nothing of the result
                await self._clock.sleep(_AGAIN_SECONDS)
                self.verify(ref)

    async def judge(self, ref: AttemptRef) -> None:
        """Looks at the result and writes the verdict. Raises StaleAttempt; Unavailable if the check could not run."""
        snapshot = await self._store.job(job_of(ref.task))
        attempt = snapshot.attempt(ref)
        if attempt is None:
            return
        try:
            await self._lifecycle.apply(snapshot.job.id, await self._verdict(snapshot, attempt))
        except NotFound as error:  # a rendition was deleted while it was judged
            await self._lifecycle.apply(snapshot.job.id, _rejected(ref, error))

    async def _verdict(self, snapshot: JobSnapshot, attempt: AttemptRecord) -> Event:
        try:
            await self._check(snapshot, attempt)
        except Unavailable:
            raise
        except TandemError as error:
            return _rejected(attempt.ref, error)
        return Accepted(attempt.ref)

    async def _check(self, snapshot: JobSnapshot, attempt: AttemptRecord) -> None:
        task = snapshot.task(attempt.ref.task)
        match task and task.work, attempt.output:
            case TranscodeWork() as work, TranscodeOutput(files=files):
                check_files(work, files)
                check_content(work, await self._look(work, files))
            case InferenceWork() as work, InferenceOutput():
                check_outputs(work, attempt.tensors)
            case BatchWork() as work, BatchOutput() as output:
                check_files(work, output.files)
                async with self._uploaded(output.file) as path:
                    await asyncio.to_thread(_check_rows, work, output, path)
                    check_confirmed(output, _earlier(snapshot, attempt))
                    await self._values(snapshot, attempt, work, output, path)
            case _:
                raise ResultRejected("expected an output of the task's kind, got another")

    async def _look(self, work: TranscodeWork, files: Sequence[FileResult]) -> dict[str, Found]:
        stills = work.stills.names if work.stills else ()
        texts = {each.name for each in work.subtitles}
        found: dict[str, Found] = {}
        async with AsyncExitStack() as lent:
            paths = {file: await lent.enter_async_context(self._uploaded(file)) for file in files}
            for file in files:
                if file.name in stills:
                    found[file.name] = await asyncio.to_thread(_pictures, paths.pop(file))
                elif file.name in texts:
                    found[file.name] = await asyncio.to_thread(_text, paths.pop(file))
            return found | (await self._media(work, paths) if paths else {})

    @asynccontextmanager
    async def _uploaded(self, file: FileResult) -> AsyncIterator[Path]:
        """Raises ResultRejected if it is not there, or of another size than the node said."""
        try:
            record = await self._store.artifact(file.artifact)
            if record.size != file.size:
                raise ResultRejected(f"{file.name}: expected {file.size} bytes, got {record.size}")
            async with self._artifacts.local(file.artifact) as path:
                yield path
        except NotFound as error:
            raise ResultRejected(f"{file.name}: expected it to be uploaded, got nothing") from error

    async def _media(self, work: TranscodeWork, paths: Mapping[FileResult, Path]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        async with self._comparison(work) as compared:
            looked = await self._inspector.results(list(paths.values()), compared)
        for file, each in zip(paths, looked, strict=True):
            if isinstance(each, str):
                raise ResultRejected(f"{file.name}: {each}")
            await self._store.save_media(file.artifact, each.source)
            found[file.name] = Found(file.size, each.source, each.likeness)
        return found

    @asynccontextmanager
    async def _comparison(self, work: TranscodeWork) -> AsyncIterator[Comparison | None]:
        """What of the source it is compared with; decided now that it has been delivered."""
        known = await self._store.source(work.source)
        draws = Draws(whether=self._draw(), where=self._draw(), how_far=self._draw())
        chosen = None if known is None else moment(work, known.keyframes, draws)
        if chosen is None:
            yield None
            return
        async with self._artifacts.local(work.source) as source:
            yield comparison(work, chosen, source)


def _check_rows(work: BatchWork, output: BatchOutput, path: Path) -> None:
    """It is a plain format, of which one row is in memory at a time."""
    with path.open("rb") as file:
        check_answers(work, output, read_rows(file, output.file.size))


def _earlier(snapshot: JobSnapshot, attempt: AttemptRecord) -> list[BatchOutput]:
    """What other attempts said that were not taken."""
    others = (a for a in snapshot.attempts_of(attempt.ref.task) if a.state is AttemptState.REJECTED)
    return [other.output for other in others if isinstance(other.output, BatchOutput)]


def _pictures(path: Path) -> Found:
    """Their headers are read; nothing is decoded."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        found = tuple(islice(jpegs(data), MAX_STILLS + 2))
        whole = bool(found) and found[-1].end == len(data)
        return Found(len(data), pictures=tuple(each.size for each in found) if whole else ())


def _text(path: Path) -> Found:
    data = path.read_bytes()
    try:
        return Found(len(data), text=data.decode().startswith("WEBVTT"))
    except UnicodeDecodeError:
        return Found(len(data))


def _rejected(ref: AttemptRef, error: TandemError) -> Rejected:
    return Rejected(ref, Failure(ResultRejected.code, error.detail, retryable=True))
