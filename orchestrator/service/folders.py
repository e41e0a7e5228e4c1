"""The folder of a job: what was put together of it, and playlists that grow while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.assembling import early, output_of, passed_on, presentation
from orchestrator.core.packaging import JobFile
from orchestrator.core.playlists import texts
from orchestrator.core.records import JobSnapshot
from orchestrator.ports.store import Store
from tandem.protocol.errors import NotFound
from tandem.protocol.jobs import JobState
from tandem.protocol.ladder import Container

_GOING_ON = {JobState.RUNNING, JobState.VERIFYING, JobState.QUEUED}
_INDEXES = (".m3u8", ".mpd")


@dataclass(frozen=True, slots=True)
class Growing:
    """A playlist as it is now."""

    text: str


class Folders:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self, job: str, path: str) -> JobFile | Growing:
        """Raises NotFound, also for what will be there later."""
        found = await self._store.file(job, path)
        if found is not None:
            return found
        snapshot = await self._store.job(job)
        text = (await self._growing(snapshot)).get(path)
        if text is not None:
            return Growing(text)
        for file in _finished(snapshot):
            if file.path == path:
                await self._store.artifact(file.artifact)
                return file
        raise NotFound(f"expected a file of the job's folder that is there by now, got {path[:255]!r}")

    async def files(self, snapshot: JobSnapshot) -> list[JobFile]:
        """All that is there, by path."""
        return await _with_stored(self._store, snapshot, _finished(snapshot))

    async def _growing(self, snapshot: JobSnapshot) -> dict[str, str]:
        if snapshot.job.state not in _GOING_ON or output_of(snapshot).container not in {Container.HLS, Container.CMAF}:
            return {}
        shown = presentation(snapshot, await self._store.packages(snapshot.job.id), ended=False)
        return {} if shown is None else texts(shown)


def _finished(snapshot: JobSnapshot) -> list[JobFile]:
    if snapshot.job.state is JobState.SUCCEEDED:
        return passed_on(snapshot)
    return early(snapshot) if snapshot.job.state in _GOING_ON else []


async def _with_stored(store: Store, snapshot: JobSnapshot, passed: Sequence[JobFile]) -> list[JobFile]:
    found = {file.path: file for file in (*passed, *await store.files(snapshot.job.id))}
    return [file for _, file in sorted(found.items())]


async def results_of(store: Store, snapshot: JobSnapshot) -> list[JobFile]:
    """All files of a job that is done, those last that name others."""
    found = await _with_stored(store, snapshot, passed_on(snapshot))
    return sorted(found, key=lambda file: (file.path.endswith(_INDEXES), "/" not in file.path))


async def mp4_of(store: Store, snapshot: JobSnapshot, rendition: str) -> JobFile | None:
    """The MP4 of a rendition: as a node made it, or as it was put together."""
    passed = (file for file in passed_on(snapshot) if file.path == f"{rendition}.mp4")
    return next(passed, None) or await store.file(snapshot.job.id, f"{rendition}.mp4")
