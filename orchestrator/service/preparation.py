"""Prepares jobs of which not everything could be known when they were submitted: fetch, probe, plan, price, queue.

How far a job is stands in the store. After a crash it is taken up where it was: a fetch that was not finished begins
anew, one that was is not repeated; and the step to `queued` is one transaction that can happen once.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from orchestrator.core.backlog import BacklogPolicy, after_failure
from orchestrator.core.lifecycle import Event, Prepared, Unprepared
from orchestrator.core.records import Failure, PreparationRecord
from orchestrator.core.submission import tasks_of
from orchestrator.ports.store import Store
from orchestrator.service.backlog import Backlog
from orchestrator.service.events import JobEvents
from orchestrator.service.planning import Planning
from orchestrator.service.sources import Sources
from tandem import logging as log
from tandem.protocol.errors import Conflict, InvalidRequest, TandemError
from tandem.protocol.jobs import AnyRequest, InferenceRequest, JobState, UrlInput
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

Apply = Callable[[str, Event], Awaitable[object]]
"""Carries an event to a job."""


class Preparations:
    """`bell` is rung when a job wants to be prepared."""

    def __init__(
        self,
        store: Store,
        planning: Planning,
        sources: Sources,
        events: JobEvents,
        apply: Apply,
        bell: Bell,
        policy: BacklogPolicy,
    ) -> None:
        self._store = store
        self._planning = planning
        self._sources = sources
        self._apply = apply
        self._policy = policy
        self.backlog = Backlog(store.preparations, self._prepare, store.now, events, bell, policy)

    async def run(self) -> None:
        """Until cancelled."""
        await self.backlog.run()

    async def _prepare(self, record: PreparationRecord) -> None:
        job = (await self._store.job(record.job)).job
        if job.state is not JobState.PREPARING:
            return
        try:
            record = await self._with_source(record, job.request)
            plan = await self._planning.plan(job.request, job.owner, record.source, keep=True)
            event: Event | None = Prepared(tasks_of(plan, job.id), plan.price, plan.artifacts)
        except TandemError as error:
            event = await self._failed(record, error)
        except ValidationError as error:  # a stranger's file and wishes, of which no rule had said so
            event = await self._failed(record, _beyond_bounds(error))
        if event is not None:
            with suppress(Conflict):  # cancelled meanwhile
                await self._apply(job.id, event)

    async def _with_source(self, record: PreparationRecord, request: AnyRequest) -> PreparationRecord:
        if record.source is not None or isinstance(request, InferenceRequest):
            return record
        if not isinstance(request.input, UrlInput):
            return record
        fetched = replace(record, source=(await self._sources.fetch(record.job, request.input.url)).id)
        await self._store.save_preparation(fetched)
        return fetched

    async def _failed(self, record: PreparationRecord, error: TandemError) -> Event | None:
        now = await self._store.now()
        again = after_failure(record, now, self._policy, retryable=error.retryable)
        log.event(
            logger,
            "preparation_failed",
            job=record.job,
            code=error.code,
            detail=error.detail,
            again_in=None if again is None else again.not_before - now,
        )
        if again is None:
            return Unprepared(Failure(error.code, error.detail, retryable=error.retryable))
        await self._store.save_preparation(again)
        return None


def _beyond_bounds(error: ValidationError) -> InvalidRequest:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"])) or "the whole"
    return InvalidRequest(f"expected a job within bounds, got {where}: {problem['msg']}")
