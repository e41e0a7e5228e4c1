"""What a submitter may see and do with jobs that are theirs. Somebody else's job does not exist."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from orchestrator.core.records import JobSnapshot
from orchestrator.core.scheduling import Reason
from orchestrator.core.views import explanation, file_results, job_summary, job_view
from orchestrator.ports.store import Store
from orchestrator.service.events import JobEvents
from tandem.protocol.api import Explanation, JobList, JobView
from tandem.protocol.errors import Conflict, NotFound
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState, is_final, uploads_of

Explain = Callable[[JobSnapshot], Mapping[str, Mapping[str, Sequence[Reason]]]]
"""For each waiting task of a job, what stands in the way of each node."""


class Jobs:
    """`cancel` cancels a job that is not final, whoever owns it, and raises Conflict if it is."""

    def __init__(
        self, store: Store, events: JobEvents, cancel: Callable[[str], Awaitable[None]], explain: Explain
    ) -> None:
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
        found = {each.artifact: await self._store.media(each.artifact) for each in file_results(snapshot)}
        media = {artifact: info for artifact, info in found.items() if info is not None}
        export = await self._store.export(job_id) if uploads_of(snapshot.job.request) else None
        return job_view(snapshot, media, self._events.progress(job_id), export)

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
