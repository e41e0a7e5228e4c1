"""Models in worker processes: loaded, kept warm, bounded, and loaded anew after a crash."""

import asyncio
import importlib.metadata
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from node.adapters.dispatch import Dispatcher, DispatchLimits
from node.adapters.seats import Seat
from node.adapters.served import Served
from node.adapters.workers import Events, InferenceSettings, Workers
from node.children.wire import Load, Loaded, Ready
from node.core.meter import Meter
from node.core.providers import CPU, fallback_reason, order_of
from node.ports.execution import Done, ModelFiles, ModelLoaded, ModelRun, Running, WarmModel
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import (
    ChildCrashed,
    ConfigurationError,
    InvalidModel,
    NoCapacity,
    TandemError,
    Unavailable,
)
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Tensor

logger = logging.getLogger(__name__)

_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_DIGEST_DIGITS = 64
_MIB = 2**20
_CHECK_SECONDS = 0.1
_MAX_STRIKES = 3


def installed_package() -> str:
    """The package that brings ONNX Runtime. Raises ConfigurationError unless exactly one is installed."""
    found = [name for name in _PACKAGES if _installed(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            "expected one of onnxruntime and onnxruntime-gpu, got both, which overwrite each other's files; "
            "uninstall both, then install the extra `cpu` or `gpu` alone"
        )
    raise ConfigurationError("expected onnxruntime or onnxruntime-gpu, got neither; install the extra `cpu` or `gpu`")


def _installed(name: str) -> bool:
    with suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


class WorkerInference:
    """The Inference port. `models` is the folder of the model artifacts, each named by the digits of its digest."""

    def __init__(self, models: Path, settings: InferenceSettings, *, sandbox: Sandbox, clock: Clock) -> None:
        self._models = models.resolve()
        self._settings = settings
        self._clock = clock
        self._group = asyncio.TaskGroup()
        self._served: OrderedDict[str, Served] = OrderedDict()
        """Least recently used first."""
        self._leaving: list[Served] = []
        """Dropped, but not out of the workers yet."""
        self._dispatcher = Dispatcher(DispatchLimits(settings.run_seconds), clock, self._spread)
        events = Events(self._dispatcher.freed, self._load_anew, self._lost)
        self.workers = Workers(self._models, settings, events, sandbox=sandbox, clock=clock)
        self._changed: Callable[[], None] = _nobody
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        installed_package()
        await self._group.__aenter__()
        # Now, since starting takes seconds that no request should wait for.
        self._tasks = [*self.workers.begin(self._group), self._group.create_task(self._watch())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for served in list(self._served.values()):
            self._drop(served, ChildCrashed("expected the node to run the model, but it is shutting down"))
        for task in self._tasks:
            task.cancel()
        self.workers.kill()
        # An error of the caller's own block leaves as it came, not in a group.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)

    async def start(self) -> Ready:
        """What the workers offer, once they are up. Raises Unavailable or ChildCrashed if none starts."""
        return await self.workers.ready()

    # --- the port

    async def load(self, files: ModelFiles, settings: ModelSettings, *, pinned: bool = False) -> ModelLoaded:
        loaded = None
        while loaded is None:
            served = self._served.get(files.digest)
            if served is None:
                served = self._served[files.digest] = Served(files, settings, pinned)
            async with served.lock:
                if not served.gone:  # as it is where whoever held the lock has failed
                    loaded = await self._load_as(served, settings, pinned=pinned)
        self._changed()
        return loaded

    async def unload(self, digest: str) -> None:
        served = self._served.get(digest)
        if served is not None:
            self._drop(served, Unavailable("expected a model that is loaded, but it was told to go; load it first"))
            self._changed()

    def submit(self, digest: str, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> Running:
        served = self._served.get(digest)
        if served is None or served.loaded is None:
            error = Unavailable(f"expected a model that is loaded, got {digest}; load it first")
            return _Refused(asyncio.get_running_loop().call_soon(done, error))
        self._served.move_to_end(digest)
        return self._dispatcher.submit(served, inputs, outputs, done)

    async def run(self, files: ModelFiles, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> ModelRun:
        self._check(files)
        served = self._served.get(files.digest)
        warm = served is not None and served.loaded is not None
        if not warm:
            pinned = served is not None and served.pinned
            await self.load(files, served.settings if served else ModelSettings(), pinned=pinned)
        future: asyncio.Future[ModelRun | TandemError] = asyncio.get_running_loop().create_future()

        def done(outcome: ModelRun | TandemError) -> None:
            if not future.done():  # cancelled, and the coroutine below does not know it yet
                future.set_result(outcome)

        running = self.submit(files.digest, inputs, outputs, done)
        try:
            outcome = await future
        except asyncio.CancelledError:
            running.cancel()
            raise
        if isinstance(outcome, TandemError):
            raise outcome
        return outcome if warm else outcome._replace(warm=False)

    def warm(self) -> tuple[WarmModel, ...]:
        return tuple(
            WarmModel(digest, served.loaded, served.pinned)
            for digest, served in self._served.items()
            if served.loaded is not None
        )

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def meters(self) -> Mapping[str, Meter]:
        """By the digest of each model that is loaded."""
        return {digest: served.meter for digest, served in list(self._served.items())}

    # --- loading

    async def _load_as(self, served: Served, settings: ModelSettings, *, pinned: bool) -> ModelLoaded:
        again = settings.provider != served.settings.provider
        served.settings, served.pinned = settings, pinned
        if served.loaded is not None and not again:
            return served.loaded
        try:
            loaded = await self._loaded(served)
        except BaseException as error:
            self._drop(served, error if isinstance(error, TandemError) else Unavailable("loading was cancelled"))
            raise
        if served.gone:
            late = Unavailable("expected to load the model, but it was told to go meanwhile; load it again")
            self._drop(served, late)
            raise late
        return loaded

    async def _loaded(self, served: Served) -> ModelLoaded:
        """On the first provider that takes it, and on one seat; more seats follow as requests wait."""
        self._check(served.files)
        await self.workers.ready()
        old, served.seats = served.seats, {}
        working = self.workers.working
        failures: dict[str, str] = {}
        for provider in order_of(working, served.settings.provider):
            seat = min((each for each in self.workers.seats if provider in each.working), key=self._held)
            try:
                found = await self._load_on(served, seat, provider)
            except InvalidModel as error:
                if provider == CPU:
                    raise
                failures[provider] = error.detail
                continue
            partial = f"{provider}: some operators run on the CPU" if found.partial else ""
            reason = fallback_reason(self._settings.providers, served.settings.provider, provider, failures) or partial
            served.loaded = ModelLoaded(provider, found.memory, found.vram, reason, found.batchable)
            served.seats = {seat: served.loaded}
            for other in old.keys() - {seat}:
                self.workers.unload(other, served.files.digest)
            self._dispatcher.pump(served)
            level = logging.WARNING if reason else logging.INFO
            log.event(
                logger,
                "model_loaded",
                level=level,
                model=served.files.digest,
                provider=provider,
                memory=found.memory,
                vram=found.vram,
                fallback=reason or None,
            )
            return served.loaded
        raise InvalidModel("; ".join(f"{name}: {reason}" for name, reason in failures.items()) or "no provider works")

    def _check(self, files: ModelFiles) -> None:
        for path in (files.model, *files.data.values()):
            digits = path.name
            if path.parent.resolve() != self._models or len(digits) != _DIGEST_DIGITS or not digits.isalnum():
                raise InvalidModel(f"expected a model artifact in {self._models}, named by its digest; got {path}")

    async def _load_on(self, served: Served, seat: Seat, provider: str) -> Loaded:
        files = served.files
        self._make_room(served, seat, sum(_size(path) for path in (files.model, *files.data.values())))
        order = Load(
            model=files.digest,
            file=files.model.name,
            data={name: path.name for name, path in files.data.items()},
            provider=provider,
            warm_up=served.settings.warm_up,
        )
        text = await self.workers.load(seat, order.model_dump_json().encode())
        found = Loaded.model_validate_json(text)
        served.meter.loads += 1
        try:
            self._make_room(served, seat, found.vram if seat.gpu else found.memory)
        except NoCapacity:
            self.workers.unload(seat, files.digest)
            raise
        return found

    def _spread(self, served: Served) -> None:
        """Loads the model on one more seat, if there is one of its kind that has room and memory is left."""
        loaded = served.loaded
        if loaded is None or served.gone or served.spreading or len(served.seats) == len(self.workers.seats):
            return
        idle = [
            seat
            for seat in self.workers.seats
            if seat not in served.seats and loaded.provider in seat.working and seat.room(fast=False)
        ]
        if idle and self._used(gpu=idle[0].gpu) + loaded.memory <= self._limit(gpu=idle[0].gpu):
            served.spreading.add(idle[0])
            self._group.create_task(self._spread_to(served, idle[0]))

    async def _spread_to(self, served: Served, seat: Seat) -> None:
        try:
            await self._load_besides(served, seat)
        except TandemError as error:
            log.event(logger, "model_not_spread", model=served.files.digest, detail=error.detail)
            return  # and is not tried again
        served.spreading.discard(seat)
        self._changed()

    async def _load_besides(self, served: Served, seat: Seat) -> None:
        """On one more seat, unless the model goes before or meanwhile. Raises as `_load_on`."""
        async with served.lock:
            loaded = served.loaded
            if loaded is None:
                return
            found = await self._load_on(served, seat, loaded.provider)
            if served.gone:
                self.workers.unload(seat, served.files.digest)
                return
            served.seats[seat] = replace(loaded, memory=found.memory, vram=found.vram)
        self._dispatcher.pump(served)

    def _lost(self, seat: Seat) -> None:
        """What the worker had loaded is for the next one to load, but for a model that ends one after the other."""
        for served in list(self._served.values()):
            if served in seat.blamed:
                served.strikes += 1
            if served.seats.pop(seat, None) is not None:
                served.lost.add(seat)
            if served.strikes >= _MAX_STRIKES:
                self._drop(served, ChildCrashed(f"expected the model to run, but {served.strikes} workers ended by it"))
                self._changed()
        seat.blamed.clear()

    async def _load_anew(self, seat: Seat) -> None:
        for served in [each for each in self._served.values() if seat in each.lost]:
            served.lost.discard(seat)
            try:
                await self._load_besides(served, seat)
            except TandemError as error:
                log.event(logger, "model_lost", level=logging.WARNING, model=served.files.digest, detail=error.detail)
                if not (served.seats or served.gone):
                    self._drop(served, error)
                    self._changed()

    # --- memory

    def _limit(self, *, gpu: bool) -> int:
        return (self._settings.vram_mib if gpu else self._settings.cache_mib) * _MIB

    def _used(self, *, gpu: bool) -> int:
        return sum(_bytes(served, gpu=gpu) for served in (*self._served.values(), *self._leaving))

    def _held(self, seat: Seat) -> int:
        """Bytes of models that the seat's worker has loaded."""
        found = [served.seats[seat] for served in self._served.values() if seat in served.seats]
        return sum(each.vram if seat.gpu else each.memory for each in found)

    def _make_room(self, new: Served, seat: Seat, needed: int) -> None:
        """Drops models that nobody uses, least recently used first. Raises NoCapacity if that is not enough."""
        excess = self._used(gpu=seat.gpu) + needed - self._limit(gpu=seat.gpu)
        idle = [each for each in self._served.values() if each is not new and not each.pinned and each.idle]
        freeable = sum(_bytes(each, gpu=seat.gpu) for each in idle)
        if excess > freeable:
            raise NoCapacity(
                f"expected {needed} bytes of {'GPU' if seat.gpu else 'main'} memory for the model, but of "
                f"{self._limit(gpu=seat.gpu)} for all models those in use or pinned leave less; try another node"
            )
        for each in idle:
            if excess <= 0:
                return
            if (size := _bytes(each, gpu=seat.gpu)) > 0:
                excess -= size
                self._drop(each, Unavailable("expected a model that is loaded, but it made room for another"))
                self._changed()

    def _drop(self, served: Served, error: TandemError) -> None:
        """Takes the model out; what runs still ends well, what waits fails."""
        if self._served.get(served.files.digest) is served:
            del self._served[served.files.digest]
        meter = served.meter
        log.event(
            logger,
            "model_unloaded",
            model=served.files.digest,
            reason=error.detail,
            requests=meter.requests,
            failures=dict(meter.failures),
            run_us=meter.run.total,
            queue_us=meter.queue.total,
            runs=sum(meter.batches.counts),
        )
        served.gone, served.loaded = True, None
        self._dispatcher.fail(served, error)
        self._leaving.append(served)
        self._leave()

    def _leave(self) -> None:
        """Has workers forget the models that were dropped and do not run any more."""
        for served in [each for each in self._leaving if not each.running]:
            self._leaving.remove(served)
            for seat in served.seats:
                self.workers.unload(seat, served.files.digest)
            served.seats = {}

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(_CHECK_SECONDS)
            self.workers.check()
            self._dispatcher.check()
            self._leave()


class _Refused:
    """A request that was answered before it began."""

    def __init__(self, answer: asyncio.Handle) -> None:
        self._answer = answer

    def cancel(self) -> None:
        self._answer.cancel()


def _bytes(served: Served, *, gpu: bool) -> int:
    return sum(each.vram if gpu else each.memory for each in served.seats.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise Unavailable(f"expected the model artifact {path.name} in the cache: {error.strerror}") from error


def _nobody() -> None:
    """Listens to changes until someone does."""
