"""Attempts: taken or refused, run, reported, and held until the orchestrator has judged them.

A job's failure is an outcome like any other, and so is a bug that it meets, or a full disk: the submitter of one job
does not end a node, with all else that runs there.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from node.core.admission import Situation, refusal
from node.ports.execution import Inference, ModelFiles, Report, Transcoder
from node.ports.transfer import Shelf, Transfer
from node.service.batches import ShardRun
from node.service.books import Books
from node.service.link import Link
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.capacity import Capacity
from tandem.protocol.codec import Envelope, Frame, encode
from tandem.protocol.errors import (
    AttemptReturned,
    AttemptTimeout,
    MalformedMessage,
    TandemError,
    TooLarge,
    Unavailable,
)
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import ROWS, BatchWork, InferenceWork, TranscodeWork
from tandem.protocol.messages import (
    MAX_SECONDS,
    Assign,
    Cancel,
    Failed,
    Finished,
    HeldAttempt,
    Offer,
    OfferUpdate,
    Progress,
    Verdict,
    WarmModel,
)
from tandem.protocol.outputs import BatchOutput, FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.placement import need
from tandem.protocol.signing import Address
from tandem.protocol.tensors import Tensor
from tandem.waiting import happens

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0
_VERDICT_SECONDS = 5.0
"""How long a draining node stays for the verdicts on what it has finished."""


@dataclass(frozen=True, slots=True)
class Executors:
    """What performs the work. `folder` is where outputs lie until they are uploaded."""

    transcoder: Transcoder
    inference: Inference
    transfer: Transfer
    folder: Path


@dataclass(slots=True, eq=False)
class _Held:
    """An attempt that was taken and not judged yet."""

    sender: Address
    assign: Assign
    started: float
    task: asyncio.Task[None] | None = None
    frame: Frame | None = None
    """Its outcome, to be said again after a drop."""


class Attempts:
    """All attempts of this node. As a context it outlives sessions; leaving it waits for what still runs."""

    def __init__(self, offer: Offer, executors: Executors, books: Books, link: Link, clock: Clock) -> None:
        self.offer = offer
        self._executors = executors
        self._books = books
        self._link = link
        self._clock = clock
        self._held: dict[AttemptRef, _Held] = {}
        self._taken: dict[asyncio.Task[None], Capacity] = {}
        """What each execution takes up, until its child processes are gone too."""
        self._idle = asyncio.Event()
        self._judged = asyncio.Event()
        self._note()

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    # --- what the orchestrator says

    def assign(self, sender: Address, assign: Assign, tensors: tuple[Tensor, ...]) -> None:
        """Takes an attempt, or says why not. One that is held already is not begun again."""
        known = self._held.get(assign.ref)
        if known is not None:
            if known.frame is not None:
                self._link.send_frame(known.frame)
            return
        refused = refusal(assign, self._situation())
        if refused is not None:
            self._link.send(_failed(assign.ref, refused))
            self._log(assign, refused, 0.0)
            return
        self._start(_Held(sender, assign, self._clock.monotonic()), tensors)

    async def judged(self, sender: Address, verdict: Verdict) -> None:
        """An accepted attempt is owed from now on; either way it may be forgotten.

        One that is not held was finished by an earlier process: of what it earned only the verdict tells.
        """
        held = self._held.get(verdict.ref)
        if verdict.accepted:
            owing, price = (held.sender, held.assign.price) if held else (sender, verdict.price)
            await self._books.earn(owing, verdict.ref, price)
        elif verdict.price:
            await self._books.earn(sender, verdict.ref, verdict.price)
        elif held:
            log.event(logger, "rejected", attempt=verdict.ref, code=verdict.code, detail=verdict.detail)
        self.drop([verdict.ref])

    async def cancelled(self, sender: Address, cancel: Cancel) -> None:
        """It is stopped. If another attempt was accepted first, what this one showed done is owed."""
        self.drop([cancel.ref])
        if cancel.price:
            await self._books.earn(sender, cancel.ref, cancel.price)

    def drop(self, refs: Iterable[AttemptRef]) -> None:
        """Stops and forgets attempts."""
        for held in [self._held.pop(ref) for ref in refs if ref in self._held]:
            if held.task is not None:
                held.task.cancel()
        self._note()

    def lost(self, refs: Iterable[AttemptRef]) -> None:
        """These leases are gone. One that has finished meanwhile waits for its verdict, which will say so."""
        self.drop([ref for ref in refs if ref in self._held and self._held[ref].frame is None])

    # --- what the session asks

    def offer_models(self, models: tuple[WarmModel, ...]) -> None:
        """The warm set has changed."""
        self.offer = self.offer.model_copy(update={"models": models})
        self._link.send(OfferUpdate(offer=self.offer))

    def held(self) -> tuple[HeldAttempt, ...]:
        return tuple(HeldAttempt(ref=ref, finished=held.frame is not None) for ref, held in self._held.items())

    def running(self) -> tuple[AttemptRef, ...]:
        return tuple(ref for ref, held in self._held.items() if held.frame is None)

    def resume(self, keep: Iterable[AttemptRef]) -> None:
        """After a drop: forgets what is not to be kept, and says every outcome again."""
        self.drop(set(self._held).difference(keep))
        for held in self._held.values():
            if held.frame is not None:
                self._link.send_frame(held.frame)

    async def drain(self, grace: float) -> None:
        """Takes nothing new, lets what runs finish within `grace` seconds, and hands the rest back."""
        self.offer = self.offer.model_copy(update={"draining": True})
        self._link.send(OfferUpdate(offer=self.offer))
        await happens(self._idle, self._clock, grace)
        for held in list(self._held.values()):
            if held.task is not None:
                held.task.cancel()
                held.task = None
                self._conclude(held, AttemptReturned("the node is shutting down; run it elsewhere"))
        if self._link.open:
            await happens(self._judged, self._clock, min(grace, _VERDICT_SECONDS))

    # --- one attempt

    def _start(self, held: _Held, tensors: tuple[Tensor, ...]) -> None:
        self._held[held.assign.ref] = held
        held.task = self._group.create_task(self._run(held, tensors), name=str(held.assign.ref))
        self._taken[held.task] = need(held.assign.work, self.offer.capability)
        held.task.add_done_callback(self._taken.pop)
        self._note()

    async def _run(self, held: _Held, tensors: tuple[Tensor, ...]) -> None:
        try:
            async with asyncio.timeout(held.assign.start_to_finish) as deadline:
                outcome: Frame | TandemError = await self._perform(held.assign, tensors)
        except TimeoutError:
            if not deadline.expired():
                raise
            outcome = AttemptTimeout(f"expected an end within {held.assign.start_to_finish:.0f} s, there was none")
        except TandemError as error:
            outcome = error
        except Exception as error:
            logger.exception("unexpected", extra={"ref": str(held.assign.ref)})
            outcome = Unavailable(f"expected an outcome, got {type(error).__name__}; the log of the node says more")
        held.task = None
        self._conclude(held, outcome)

    def _conclude(self, held: _Held, outcome: Frame | TandemError) -> None:
        error = outcome if isinstance(outcome, TandemError) else None
        if isinstance(outcome, TandemError):
            outcome = encode(Envelope(_failed(held.assign.ref, outcome)))
        held.frame = outcome
        self._link.send_frame(outcome)
        self._log(held.assign, error, self._clock.monotonic() - held.started)
        self._note()

    async def _perform(self, assign: Assign, tensors: tuple[Tensor, ...]) -> Frame:
        match assign.work:
            case TranscodeWork() as work:
                return await self._transcode(assign, work)
            case InferenceWork() as work:
                return await self._infer(assign, work, tensors)
            case BatchWork() as work:
                return await self._run_shard(assign, work)
            case _:
                assert_never(assign.work)

    async def _transcode(self, assign: Assign, work: TranscodeWork) -> Frame:
        to = self._executors
        async with AsyncExitStack() as kept:
            source = await kept.enter_async_context(self._source(assign, work))
            logo, mark = None, work.picture.watermark
            if mark is not None and assign.watermark_url is not None:
                logo = await kept.enter_async_context(
                    to.transfer.fetch(Shelf.SOURCES, mark.artifact, mark.size, assign.watermark_url)
                )
            with self._workspace() as folder:
                files = await to.transcoder.transcode(work, source, logo, Path(folder), self._reporter(assign.ref))
                results = [await self._upload(name, path, assign.upload_urls[name]) for name, path in files.items()]
        return encode(Envelope(Finished(ref=assign.ref, output=TranscodeOutput(files=tuple(results)))))

    def _source(self, assign: Assign, work: TranscodeWork) -> AbstractAsyncContextManager[Path]:
        transfer, url = self._executors.transfer, assign.source_url
        if work.ranges:
            return transfer.fetch_ranges(work.source, work.source_size, work.ranges, url)
        return transfer.fetch(Shelf.SOURCES, work.source, work.source_size, url)

    async def _upload(self, name: str, path: Path, url: str) -> FileResult:
        artifact, size = await self._executors.transfer.upload(path, url)
        return FileResult(name=name, artifact=artifact, size=size)

    async def _infer(self, assign: Assign, work: InferenceWork, tensors: tuple[Tensor, ...]) -> Frame:
        async with self._model(assign, work, assign.source_url) as files:
            run = await self._executors.inference.run(files, tensors, [spec.name for spec in work.outputs])
        output = InferenceOutput(outputs=tuple(tensor.meta for tensor in run.outputs), provider=run.provider)
        try:
            return encode(Envelope(Finished(ref=assign.ref, output=output), run.outputs))
        except MalformedMessage as error:
            raise TooLarge(f"expected outputs that fit into one message: {error.detail}") from error

    @asynccontextmanager
    async def _model(self, assign: Assign, work: InferenceWork | BatchWork, url: str) -> AsyncIterator[ModelFiles]:
        """The model with its external data, from the cache or fetched."""
        transfer = self._executors.transfer
        async with AsyncExitStack() as kept:
            model = await kept.enter_async_context(transfer.fetch(Shelf.MODELS, work.model, work.model_size, url))
            data = {
                file.name: await kept.enter_async_context(
                    transfer.fetch(Shelf.MODELS, file.artifact, file.size, file_url)
                )
                for file, file_url in zip(work.files, assign.file_urls, strict=True)
            }
            yield ModelFiles(work.digest, model, data)

    async def _run_shard(self, assign: Assign, work: BatchWork) -> Frame:
        to, names = self._executors, [spec.name for spec in work.outputs]
        async with (
            self._model(assign, work, assign.model_url or "") as files,
            to.transfer.fetch_ranges(work.source, work.source_size, (work.span,), assign.source_url) as source,
        ):
            shard = ShardRun(work, lambda inputs: to.inference.run(files, inputs, names), self._reporter(assign.ref))
            with self._workspace() as folder:
                target = Path(folder) / ROWS
                await shard.perform(source, target)
                file = await self._upload(ROWS, target, assign.upload_urls[ROWS])
        output = BatchOutput(file=file, provider=shard.provider, failed=tuple(shard.failed))
        return encode(Envelope(Finished(ref=assign.ref, output=output)))

    def _workspace(self) -> AbstractContextManager[str]:
        try:
            return tempfile.TemporaryDirectory(dir=self._executors.folder)
        except OSError as error:
            raise Unavailable(
                f"expected to write to {self._executors.folder}: {error}; free some disk space"
            ) from error

    def _reporter(self, ref: AttemptRef) -> Report:
        last = -_PROGRESS_SECONDS

        def report(permille: int, remaining: float | None) -> None:
            nonlocal last
            now = self._clock.monotonic()
            if now - last >= _PROGRESS_SECONDS:
                last = now
                left = None if remaining is None else min(remaining, MAX_SECONDS)
                self._link.send(Progress(ref=ref, permille=permille, remaining=left))

        return report

    # --- all attempts

    def _situation(self) -> Situation:
        return Situation(
            offer=self.offer,
            running=tuple(self._taken.values()),
            balance=self._books.balance,
            held=self._books.at_stake,
            unjudged=sum(len(held.frame) for held in self._held.values() if held.frame is not None),
            count=len(self._held),
        )

    def _note(self) -> None:
        self._books.held = sum(held.assign.price for held in self._held.values())
        _set(self._idle, all(held.frame is not None for held in self._held.values()))
        _set(self._judged, not self._held)

    def _log(self, assign: Assign, error: TandemError | None, seconds: float) -> None:
        log.event(
            logger,
            "attempt",
            attempt=assign.ref,
            kind=assign.work.kind,
            outcome=error.code if error else "finished",
            detail=error.detail if error else None,
            seconds=round(seconds, 3),
            price=assign.price,
        )


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()


def _failed(ref: AttemptRef, error: TandemError) -> Failed:
    return Failed(ref=ref, code=error.code, detail=error.detail[:4096], retryable=error.retryable)
