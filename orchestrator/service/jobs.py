"""What a submitter may see and do with jobs that are theirs. Somebody else's job does not exist."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from orchestrator.core.assembling import output_of, presentation, rendition_names
from orchestrator.core.batches import batch_result
from orchestrator.core.playlists import DASH, PLAYLIST, Presentation
from orchestrator.core.records import JobSnapshot
from orchestrator.core.scheduling import Reason
from orchestrator.core.views import explanation, is_done, job_summary, job_view, mp4_view, stream_view
from orchestrator.ports.store import Store
from orchestrator.service.events import JobEvents
from orchestrator.service.folders import mp4_of
from tandem.protocol.api import BatchResult, Explanation, JobList, JobView, RenditionView
from tandem.protocol.errors import Conflict, NotFound
from tandem.protocol.jobs import JOB_TRANSITIONS, BatchRequest, JobState, TranscodeRequest, is_final, uploads_of
from tandem.protocol.ladder import Container

Explain = Callable[[JobSnapshot], Mapping[str, Mapping[str, Sequence[Reason]]]]
"""For each waiting task of a job, what stands in the way of each node."""


class Jobs:
    """`cancel` cancels a job that is not final, whoever owns it, and raises Conflict if it is.

    `folder` signs the path of a job's folder.
    """

    def __init__(
        self,
        store: Store,
        events: JobEvents,
        cancel: Callable[[str], Awaitable[None]],
        explain: Explain,
        folder: Callable[[str], str],
    ) -> None:
        self._folder = folder
        self._store = store
        self._events = events
        self._cancel = cancel
        self._explain = explain

    async def snapshot(self, job_id: str, owner: str) -> JobSnapshot:
        """Raises NotFound."""
        snapshot = await self._store.job(job_id)
        if snapshot.job.owner != owner:
            raise NotFound(f"expected the id of a job of yours, got {job_id!r}")
        return snapshot

    async def view(self, job_id: str, owner: str) -> JobView:
        """Raises NotFound."""
        snapshot = await self.snapshot(job_id, owner)
        given = await self._given(snapshot) if is_done(snapshot) else ()
        export = await self._store.export(job_id) if uploads_of(snapshot.job.request) else None
        view = job_view(snapshot, given, self._events.progress(job_id), export)
        if not isinstance(snapshot.job.request, TranscodeRequest):
            return view
        return view.model_copy(update={"folder": self._folder(job_id)})

    async def _given(self, snapshot: JobSnapshot) -> tuple[RenditionView, ...] | BatchResult | None:
        if isinstance(snapshot.job.request, BatchRequest):
            return batch_result(snapshot, await self._store.files(snapshot.job.id))
        return await self._renditions(snapshot)

    async def _renditions(self, snapshot: JobSnapshot) -> tuple[RenditionView, ...]:
        """What a transcode gave, each with the file to open and what is known of it."""
        job = snapshot.job.id
        if output_of(snapshot).container is Container.MP4:
            found = [(name, await mp4_of(self._store, snapshot, name)) for name in rendition_names(snapshot)]
            media = {file.artifact: await self._store.media(file.artifact) for _, file in found if file}
            return tuple(mp4_view(name, file, media[file.artifact]) for name, file in found if file)
        shown = presentation(snapshot, await self._store.packages(job), ended=True)
        return await self._streamed(job, shown) if shown is not None else ()

    async def _streamed(self, job: str, shown: Presentation) -> tuple[RenditionView, ...]:
        views = []
        for each in shown.video:
            playlist = f"{each.name}/{PLAYLIST}"
            file = await self._store.file(job, playlist) or await self._store.file(job, DASH)
            if file is not None:
                views.append(stream_view(job, shown, each, file))
        return tuple(views)

    async def page(self, owner: str, *, state: JobState | None, after: str | None, limit: int) -> JobList:
        """The owner's jobs, newest first."""
        page = await self._store.jobs(owner, state=state, after=after, limit=limit)
        jobs = tuple(job_summary(each, self._events.progress(each.job.id)) for each in page.jobs)
        return JobList(jobs=jobs, next=page.next_cursor)

    async def explain(self, job_id: str, owner: str) -> Explanation:
        """Why the job is waiting. Raises NotFound."""
        snapshot = await self.snapshot(job_id, owner)
        return explanation(snapshot, self._explain(snapshot))

    async def cancel(self, job_id: str, owner: str) -> JobView:
        """Once more is harmless. Raises NotFound, or Conflict if the job ended in another way."""
        state = (await self.snapshot(job_id, owner)).job.state
        if not is_final(JOB_TRANSITIONS, state):
            await self._cancel(job_id)
        elif state is not JobState.CANCELLED:
            raise Conflict(f"expected a job that is not over, {job_id} has {state}; there is nothing to cancel")
        return await self.view(job_id, owner)
