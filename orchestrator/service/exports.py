"""Writes results to URLs of submitters, such as presigned ones of a bucket; the job succeeds once all are there.

What is written stands in the store after every few files, so that a crash repeats few; each may be repeated.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from orchestrator.core.backlog import BacklogPolicy, after_failure
from orchestrator.core.lifecycle import Event, Exported, Unexported
from orchestrator.core.packaging import JobFile
from orchestrator.core.records import ExportRecord, Failure, JobSnapshot
from orchestrator.ports.store import Store
from orchestrator.ports.visiting import Visitor
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.backlog import Backlog
from orchestrator.service.events import JobEvents
from orchestrator.service.folders import mp4_of, results_of
from tandem import logging as log
from tandem.protocol.errors import Conflict, NotFound, TandemError
from tandem.protocol.jobs import FILENAME, BucketForm, JobState, uploads_of
from tandem.waiting import Bell

logger = logging.getLogger(__name__)

Apply = Callable[[str, Event], Awaitable[object]]
"""Carries an event to a job."""


_UNSAVED = 32
"""Files that may be written again after a crash, of a folder with many."""


@dataclass(frozen=True, slots=True)
class _Sending:
    name: str
    file: JobFile
    target: str | BucketForm


def form_fields(form: BucketForm, path: str, media_type: str) -> Mapping[str, str]:
    """Those of one file of the folder."""
    typed = {name: media_type for name in form.fields if name.lower() == "content-type"}
    return {**form.fields, **typed, "key": form.fields["key"].removesuffix(FILENAME) + path}


class Exports:
    """`bell` is rung when a job wants to be exported."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        visitor: Visitor,
        events: JobEvents,
        apply: Apply,
        bell: Bell,
        policy: BacklogPolicy,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._visitor = visitor
        self._apply = apply
        self._policy = policy
        self.backlog = Backlog(store.exports, self._export, store.now, events, bell, policy)

    async def run(self) -> None:
        """Until cancelled."""
        await self.backlog.run()

    async def _export(self, record: ExportRecord) -> None:
        snapshot = await self._store.job(record.job)
        if snapshot.job.state is not JobState.EXPORTING:
            return
        try:
            done = frozenset(record.written)
            sendings = [each for each in await self._sendings(snapshot) if each.name not in done]
            for index, sending in enumerate(sendings, 1):
                await self._write(sending)
                record = replace(record, written=(*record.written, sending.name))
                if index % _UNSAVED == 0 or len(sendings) <= _UNSAVED or index == len(sendings):
                    await self._store.save_export(record)
            event: Event | None = Exported()
        except TandemError as error:
            event = await self._failed(record, error)
        if event is not None:
            with suppress(Conflict):  # cancelled meanwhile
                await self._apply(record.job, event)

    async def _sendings(self, snapshot: JobSnapshot) -> list[_Sending]:
        uploads = uploads_of(snapshot.job.request)
        if isinstance(uploads, BucketForm):
            return [_Sending(file.path, file, uploads) for file in await results_of(self._store, snapshot)]
        sendings = []
        for name, url in uploads.items():
            file = await mp4_of(self._store, snapshot, name)
            if file is None:
                raise NotFound(f"expected the rendition {name} of {snapshot.job.id}, there is none")
            sendings.append(_Sending(name, file, url))
        return sendings

    async def _write(self, sending: _Sending) -> None:
        artifact, target = await self._artifacts.get(sending.file.artifact), sending.target
        async with aclosing(self._artifacts.read(artifact.id, 0, artifact.size)) as chunks:
            if isinstance(target, BucketForm):
                fields = form_fields(target, sending.name, sending.file.media_type)
                await self._visitor.post_form(target.url, fields, chunks, artifact.size)
            else:
                await self._visitor.put(target, chunks, artifact.size, artifact.media_type)

    async def _failed(self, record: ExportRecord, error: TandemError) -> Event | None:
        now = await self._store.now()
        again = after_failure(record, now, self._policy, retryable=error.retryable)
        told = f"{error.code}: {error.detail}"
        log.event(
            logger, "export_failed", job=record.job, code=error.code, detail=error.detail, again=again is not None
        )
        await self._store.save_export(replace(again or replace(record, tries=record.tries + 1), error=told))
        return None if again else Unexported(Failure(error.code, error.detail, retryable=error.retryable))
