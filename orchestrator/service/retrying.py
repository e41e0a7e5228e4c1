"""Failed jobs that a submitter wants tried again."""

from collections.abc import Awaitable, Callable, Sequence

from orchestrator.core.leftovers import needed
from orchestrator.core.lifecycle import Event, Retried
from orchestrator.core.records import JobSnapshot, TaskRecord
from orchestrator.core.retrying import missing_shards, missing_works
from orchestrator.ports.store import Store
from tandem.protocol.errors import Conflict, NotFound
from tandem.protocol.ids import index_of, task_id
from tandem.protocol.jobs import AnyWork, BatchRequest, TaskState
from tandem.protocol.pricing import Prices, price_of


class Retries:
    """`apply` writes an event of a job, and what follows is told to everyone concerned."""

    def __init__(self, store: Store, prices: Prices, apply: Callable[[str, Event], Awaitable[object]]) -> None:
        self._store = store
        self._prices = prices
        self._apply = apply

    async def retry(self, job_id: str, owner: str) -> None:
        """Queues what the job lacks; what is done stays done, and charged. Raises NotFound, or Conflict."""
        snapshot = await self._store.job(job_id)
        if snapshot.job.owner != owner:
            raise NotFound(f"expected the id of a job of yours, got {job_id!r}")
        batch = isinstance(snapshot.job.request, BatchRequest)
        works: tuple[AnyWork, ...] = missing_shards(snapshot) if batch else missing_works(snapshot)
        try:
            await self._apply(job_id, Retried(self._tasks(snapshot, works), needed(snapshot)))
        except NotFound as error:
            raise Conflict(f"expected the files of {job_id} to be kept, some are gone: submit it anew") from error

    def _tasks(self, snapshot: JobSnapshot, works: Sequence[AnyWork]) -> tuple[TaskRecord, ...]:
        first = 1 + max((index_of(task.id) for task in snapshot.tasks), default=-1)
        return tuple(
            TaskRecord(task_id(snapshot.job.id, index), work, TaskState.WAITING, price_of(work, self._prices) or 0)
            for index, work in enumerate(works, first)
        )
