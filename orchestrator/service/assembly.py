"""Puts a job's results together to what players open: segment by segment while it runs, the rest at its end.

Whatever ends the process, nothing is lost and nothing is done twice to an effect: what is made is named by its content,
a package is written with its files in one transaction, and the end of the job with its last files in another. What a
killed process had stored without writing it down belongs to nobody, and the janitor takes it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.core.assembling import (
    Joinable,
    Made,
    Ready,
    joinable,
    output_of,
    passed_on,
    presentation,
    ready,
    still_texts,
)
from orchestrator.core.completion import is_assembling, needs_assembly
from orchestrator.core.lifecycle import Assembled, Event, Unassembled
from orchestrator.core.packaging import JobFile, Package, Segment
from orchestrator.core.playlists import DASH, manifest, texts
from orchestrator.core.records import Failure, JobSnapshot
from orchestrator.core.verification import MAX_TEXT_BYTES
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector
from orchestrator.ports.packaging import (
    CutPart,
    Cutting,
    Follower,
    Images,
    Joining,
    Packager,
    Part,
    Pictures,
    Sound,
    Words,
)
from orchestrator.ports.store import Store
from orchestrator.service.batches import BatchFiles
from orchestrator.service.made import is_own, pieces
from tandem.clock import Clock
from tandem.protocol.errors import AssemblyFailed, Conflict, NotFound, TandemError, Unavailable
from tandem.protocol.jobs import JOB_TRANSITIONS, BatchRequest, JobState, is_final
from tandem.protocol.ladder import Container, SegmentFormat
from tandem.protocol.timing import MARGIN_US, PICTURE_OFFSET_TICKS

_AGAIN_SECONDS = 2.0
_MICRO = 10**6
_OPEN = (JobState.QUEUED, JobState.RUNNING, JobState.VERIFYING)
_PAGE = 100
_AT_ONCE = 8
_LARGEST: Final = 2**50

MEDIA_TYPES: Mapping[str, str] = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mpd": "application/dash+xml",
    ".vtt": "text/vtt",
    ".jpg": "image/jpeg",
    ".ts": "video/mp2t",
    ".mp4": "video/mp4",
    ".m4s": "video/iso.segment",
}


@dataclass(frozen=True, slots=True)
class Makers:
    """Who does what is a child process's to do."""

    packager: Packager
    batches: BatchFiles
    inspector: Inspector


class Assembly:
    """`due` has the ids of jobs of which something may be ready to be put together; `apply` writes an event of one."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        makers: Makers,
        apply: Callable[[str, Event], Awaitable[object]],
        due: "asyncio.Queue[str]",
        clock: Clock,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._packager = makers.packager
        self._batches = makers.batches
        self._inspector = makers.inspector
        self._apply = apply
        self._due = due
        self._clock = clock
        self._taken: set[str] = set()
        """Tasks whose results are being cut, and jobs that are being completed."""

    async def run(self, workers: int = 2) -> None:
        """Until cancelled; first takes up what an earlier process had begun."""
        for state in _OPEN:
            await self._take_up(state)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _take_up(self, state: JobState) -> None:
        after: str | None = None
        while True:
            page = await self._store.jobs(None, state=state, after=after, limit=_PAGE)
            for snapshot in page.jobs:
                self._due.put_nowait(snapshot.job.id)
            after = page.next_cursor
            if after is None:
                return

    async def _work(self) -> None:
        while True:
            await self._settle(await self._due.get())

    async def _settle(self, job: str) -> None:
        try:
            await self.advance(job)
        except Unavailable:  # the work could not run, which says nothing of the results
            await self._clock.sleep(_AGAIN_SECONDS)
            self._due.put_nowait(job)
        except Conflict:  # over meanwhile
            return
        except TandemError as error:
            failure = Failure(AssemblyFailed.code, error.detail, retryable=False)
            await self._give_up(job, failure)

    async def _give_up(self, job: str, failure: Failure) -> None:
        try:
            await self._apply(job, Unassembled(failure))
        except (Conflict, NotFound):  # over meanwhile
            return

    async def advance(self, job: str) -> None:
        """Does all that can be done now and nobody else does, what is played first at first.

        Raises Conflict if the job ends meanwhile; else what stands in the way.
        """
        while True:
            snapshot = await self._store.job(job)
            if is_final(JOB_TRANSITIONS, snapshot.job.state) or not needs_assembly(snapshot):
                return
            packages = await self._store.packages(job)
            parts = self._next(snapshot, packages)
            if not parts:
                break
            with self._taking(parts[0].made.task):
                await self._cut(snapshot, parts)
            if not self._due.empty():  # the others have their turn
                self._due.put_nowait(job)
                return
        tasks = {task.id for task in snapshot.tasks}
        if is_assembling(snapshot) and not self._taken & {job, *tasks}:  # whoever cuts the last one comes here too
            with self._taking(job):
                await self._complete(snapshot, packages)

    def _next(self, snapshot: JobSnapshot, packages: Sequence[Package]) -> list[Ready]:
        """The results of one task."""
        free = [each for each in ready(snapshot, packages) if each.made.task not in self._taken]
        return [each for each in free if each.made.task == free[0].made.task]

    @contextmanager
    def _taking(self, what: str) -> Iterator[None]:
        self._taken.add(what)
        try:
            yield
        finally:
            self._taken.discard(what)

    async def _cut(self, snapshot: JobSnapshot, parts: Sequence[Ready]) -> None:
        output = output_of(snapshot)
        transport = output.segment_format is SegmentFormat.TS
        async with self._packager.room() as room, AsyncExitStack() as stack:
            given = tuple([await self._part(stack, each) for each in parts])
            segment_us = round(output.segment_seconds * _MICRO)
            order = Cutting(parts=given, folder=room, segment_us=segment_us, transport=transport)
            kept = [await self._keep(parts[0].made.task, each, room) for each in await self._packager.cut(order)]
        packages = [package for package, _ in kept]
        await self._store.add_packages(snapshot.job.id, packages, [file for _, files in kept for file in files])

    async def _part(self, stack: AsyncExitStack, each: Ready) -> Part:
        path = await self._lent(stack, each.made)
        if each.made.is_images:
            return Images(name=each.made.name, path=path)
        first = path if each.first is None or each.first is each.made else await self._lent(stack, each.first)
        if each.made.is_sound:
            return Sound(name=each.made.name, path=path, first=first, span=each.made.span)
        made, follower = each.made, await self._follower(stack, each.made)
        return Pictures(name=made.name, path=path, first=first, ending=made.ending, follower=follower, color=made.color)

    async def _follower(self, stack: AsyncExitStack, made: Made) -> Follower | None:
        if not made.irregular or made.work.ends:
            return None
        source = await stack.enter_async_context(self._artifacts.local(made.work.source))
        origin_us = made.work.origin_us
        return Follower(source=source, origin_us=origin_us, from_us=made.end_us - origin_us - MARGIN_US)

    async def _words(self, stack: AsyncExitStack, made: Made) -> Words:
        return Words(path=await self._lent(stack, made), language=made.language)

    async def _lent(self, stack: AsyncExitStack, made: Made) -> Path:
        return await stack.enter_async_context(self._artifacts.local(made.file.artifact))

    async def _keep(self, task: str, part: CutPart, room: Path) -> tuple[Package, list[JobFile]]:
        """Puts what was cut into the store of artifacts."""
        folder = room / part.name
        init = folder / "init.mp4"
        suffix = ".jpg" if part.track is None else ".m4s" if init.exists() else ".ts"
        paths = [("poster.jpg" if part.name == "poster" else f"{part.name}/{cut.start}{suffix}") for cut in part.cuts]
        given = list(zip(paths, (folder / f"{cut.start}{suffix}" for cut in part.cuts), strict=True))
        files = await self._all_stored(given + ([(f"{part.name}/init.mp4", init)] if init.exists() else []))
        segments = tuple(
            Segment(start=cut.start, duration=cut.duration, size=file.size)
            for cut, file in zip(part.cuts, files, strict=False)
        )
        return Package(task=task, name=part.name, track=part.track, segments=segments), files

    async def _all_stored(self, given: Sequence[tuple[str, Path]]) -> list[JobFile]:
        """Some at a time, so that they share what writing to a disk costs."""
        for path, source in given:
            await _demand_own(path, source)
        found: list[JobFile] = []
        for begin in range(0, len(given), _AT_ONCE):
            some = given[begin : begin + _AT_ONCE]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._put(path, pieces(source))) for path, source in some]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
            found += [task.result() for task in tasks]
        return found

    async def _complete(self, snapshot: JobSnapshot, packages: Sequence[Package]) -> None:
        if isinstance(snapshot.job.request, BatchRequest):
            await self._apply(snapshot.job.id, Assembled((await self._batches.results(snapshot),)))
            return
        files = passed_on(snapshot)
        for name, parts in joinable(snapshot).items():
            files.append(await self._joined(name, parts))
        if output_of(snapshot).container is not Container.MP4:
            files += await self._streams(snapshot, packages, files)
        for path, text in still_texts(snapshot, packages).items():
            files.append(await self._written(path, text.encode()))
        await self._apply(snapshot.job.id, Assembled(tuple(files)))

    async def _joined(self, name: str, parts: Joinable) -> JobFile:
        async with self._packager.room() as room, AsyncExitStack() as stack:
            target = room / f"{name}.mp4"
            await self._packager.join(
                Joining(
                    windows=tuple([await self._lent(stack, each) for each in parts.windows]),
                    sounds=tuple([await self._words(stack, each) for each in parts.sounds]),
                    texts=tuple([await self._words(stack, each) for each in parts.texts]),
                    ending=parts.windows[-1].ending,
                    color=parts.windows[0].color,
                    target=target,
                )
            )
            file = await self._stored(f"{name}.mp4", target)
            source = await self._inspector.media(target)
        await self._store.save_media(file.artifact, source)
        expected = sum([await self._frames(each) for each in parts.windows])
        got = source.media.video.frames if source.media.video else 0
        if got != expected:
            raise AssemblyFailed(
                f"{name}: expected the {expected} frames of its {len(parts.windows)} windows, got {got}"
            )
        return file

    async def _streams(self, snapshot: JobSnapshot, packages: Sequence[Package], files: list[JobFile]) -> list[JobFile]:
        output = output_of(snapshot)
        shown = presentation(snapshot, packages, ended=True)
        if shown is None:
            raise AssemblyFailed("expected every track of the stream to be made, got some without a segment")
        found = texts(shown) if output.container is not Container.DASH else {}
        if output.container is not Container.HLS:
            found[DASH] = manifest(shown)
        if output.segment_format is SegmentFormat.TS:
            files[:] = [await self._timed(file) if file.path.endswith(".vtt") else file for file in files]
        return [await self._written(path, text.encode()) for path, text in found.items()]

    async def _timed(self, file: JobFile) -> JobFile:
        """Captions that say where on the clock of the transport streams they begin (RFC 8216, 3.5)."""
        parts = [part async for part in self._artifacts.read(file.artifact, 0, MAX_TEXT_BYTES)]
        head, _, rest = b"".join(parts).partition(b"\n")
        clock = f"X-TIMESTAMP-MAP=MPEGTS:{PICTURE_OFFSET_TICKS},LOCAL:00:00:00.000"
        return await self._written(file.path, b"\n".join((head, clock.encode(), rest)))

    async def _stored(self, path: str, source: Path) -> JobFile:
        await _demand_own(path, source)
        return await self._put(path, pieces(source))

    async def _written(self, path: str, content: bytes) -> JobFile:
        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await self._put(path, whole())

    async def _put(self, path: str, pieces: AsyncIterator[bytes]) -> JobFile:
        media_type = MEDIA_TYPES[Path(path).suffix]
        artifact, size = await self._artifacts.write(pieces, _LARGEST)
        await self._store.add_artifact(artifact, size, media_type)
        return JobFile(path=path, artifact=artifact, media_type=media_type, size=size)

    async def _frames(self, made: Made) -> int:
        """As they were counted when the window was verified."""
        info = await self._store.media(made.file.artifact)
        return info.video.frames if info is not None and info.video is not None else 0


async def _demand_own(path: str, source: Path) -> None:
    if not await asyncio.to_thread(is_own, source):
        raise AssemblyFailed(f"expected the file {path} to be made, got something else in its place")
