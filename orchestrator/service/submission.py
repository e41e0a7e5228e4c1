"""Taking jobs in: decide all that can be decided at once, write, and leave the rest to the preparation."""

import asyncio
import logging
import os
from collections.abc import Callable

from orchestrator.core.records import Once, Submission
from orchestrator.core.submission import Frame, needs_preparation, once, quote_of, submission_of, unprepared_submission
from orchestrator.ports.store import Store
from orchestrator.ports.visiting import Visitor
from orchestrator.service.planning import Planning
from orchestrator.service.webhooks import Webhooks
from tandem import logging as log
from tandem.protocol.api import QuoteView
from tandem.protocol.ids import job_id
from tandem.protocol.jobs import AnyRequest, BatchRequest, BucketForm, TranscodeRequest, UrlInput, uploads_of

logger = logging.getLogger(__name__)


class Submissions:
    """Quotes and new jobs.

    After each submission `tasks_waiting` or `to_prepare` is called, to have it go on now rather than soon.
    """

    def __init__(
        self,
        store: Store,
        planning: Planning,
        visitor: Visitor,
        webhooks: Webhooks,
        tasks_waiting: Callable[[], None],
        to_prepare: Callable[[], None],
    ) -> None:
        self._store = store
        self._planning = planning
        self._visitor = visitor
        self._webhooks = webhooks
        self._tasks_waiting = tasks_waiting
        self._to_prepare = to_prepare

    async def quote(self, request: AnyRequest, owner: str) -> QuoteView:
        """What the job would cost; raises what `submit` would, and InvalidRequest for an input by URL.

        Nothing is stored but the probe of the source.
        """
        return quote_of(await self._planning.plan(request, owner))

    async def submit(self, request: AnyRequest, owner: str, idempotency_key: str | None = None) -> str:
        """Writes the job and returns its id; under an idempotency key that the owner used before, the first one's.

        Raises NotFound (artifact, model), UnreadableMedia, InvalidLadder, InvalidTensor, TooLarge, PriceExceeded,
        UrlForbidden, IdempotencyConflict, Unavailable; Conflict for a webhook without a secret to sign with.
        """
        named = None
        if idempotency_key is not None:
            named = await asyncio.to_thread(once, idempotency_key, request)  # it may hold millions of numbers
            # Before all else: what the first one was planned by may be gone, or have changed.
            first = await self._store.submitted(owner, named)
            if first is not None:
                return first
        if needs_preparation(request):
            return await self._submit_unprepared(request, owner, named)
        plan = await self._planning.plan(request, owner)
        new = submission_of(plan, await self._frame(request, owner, named))
        job = await self._write(new, self._tasks_waiting)
        log.event(logger, "submitted", job=job, tasks=len(plan.parts), whole_because=plan.whole_because)
        return job

    async def _write(self, new: Submission, wake: Callable[[], None]) -> str:
        job = await self._store.submit(new)
        wake()
        if new.job.webhook is not None:
            self._webhooks.wake()
        return job

    async def _frame(self, request: AnyRequest, owner: str, named: Once | None) -> Frame:
        uploads = uploads_of(request)
        for url in (uploads.url,) if isinstance(uploads, BucketForm) else uploads.values():
            self._visitor.check(url)
        webhook = await self._webhooks.target(request, owner)
        now = await self._store.now()
        return Frame(job_id(now, os.urandom(8)), owner, now, named, webhook)

    async def _submit_unprepared(self, request: TranscodeRequest | BatchRequest, owner: str, named: Once | None) -> str:
        if isinstance(request, BatchRequest):
            request = await self._planning.pinned(request, owner)
        if isinstance(request.input, UrlInput):
            self._visitor.check(request.input.url)
        new = unprepared_submission(request, await self._frame(request, owner, named))
        return await self._write(new, self._to_prepare)
