"""Inference in a worker process that is kept warm, bounded, and started anew after a crash."""

import asyncio
import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from node.adapters.worker import Request, Worker
from node.children.wire import Ready, WorkerSettings
from node.ports.execution import Done, ModelFiles, ModelLoaded, ModelRun, Running, WarmModel
from tandem.clock import Clock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import AttemptTimeout, ConfigurationError, InvalidModel, TandemError, Unavailable
from tandem.protocol.models import ModelSettings
from tandem.protocol.tensors import Tensor

_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_DIGEST_DIGITS = 64


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Bounds and choices of the worker process; one process a device."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """In order of preference; all but the first that works are idle."""
    device: int = 0
    threads: int = 1
    """Of one run. Two halve the latency of a lone request and cost a fifth of the throughput under load."""
    slots: int = 2
    """Runs at once; more wait."""
    cache_mib: int = 1024
    """Of models kept loaded."""
    memory_mib: int = 4096
    """Of the whole process; more ends it."""
    start_seconds: float = 60
    run_seconds: float = 60
    """Of one request, from when it has a slot; loading the model counts."""
    grace_seconds: float = 1
    """For a run to end when it is told to, before its process is killed."""


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
        self._sandbox = sandbox
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.slots)
        self._starting = asyncio.Lock()
        self._group = asyncio.TaskGroup()
        self._worker: Worker | None = None
        self._warm: dict[str, tuple[ModelFiles, WarmModel]] = {}
        self._changed: Callable[[], None] = _nobody

    async def __aenter__(self) -> Self:
        installed_package()
        await self._group.__aenter__()
        self._worker = self._new_worker()  # now, since it takes seconds that no request should wait for
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.kill()
        # An error of the caller's own block leaves as it came, not in a group.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)

    async def start(self) -> Ready:
        """What the worker offers, once it is up. Raises Unavailable or ChildCrashed if it cannot."""
        return (await self._ready_worker())[1]

    async def load(self, files: ModelFiles, settings: ModelSettings, *, pinned: bool = False) -> ModelLoaded:  # noqa: ARG002
        self._name(files.model)
        loaded = ModelLoaded((await self.start()).providers[0], files.model.stat().st_size)
        self._warm[files.digest] = (files, WarmModel(files.digest, loaded, pinned))
        self._changed()
        return loaded

    async def unload(self, digest: str) -> None:
        if self._warm.pop(digest, None):
            self._changed()

    def submit(self, digest: str, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> Running:
        return self._group.create_task(self._submitted(digest, inputs, outputs, done))

    async def _submitted(self, digest: str, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> None:
        try:
            if digest not in self._warm:
                raise Unavailable(f"expected a loaded model, but {digest} is not; load it first")
            outcome: ModelRun | TandemError = await self.run(self._warm[digest][0], inputs, outputs)
        except TandemError as error:
            outcome = error
        done(outcome)

    def warm(self) -> tuple[WarmModel, ...]:
        return tuple(model for _, model in self._warm.values())

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def run(self, files: ModelFiles, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> ModelRun:
        """Runs the model once for the named outputs, or for all. Raises as the port says."""
        name = self._name(files.model)
        async with self._slots:
            worker, _ = await self._ready_worker()
            outcome = await self._bounded(worker, worker.submit(name, inputs, outputs))
        if isinstance(outcome, TandemError):
            raise outcome
        return outcome

    def _name(self, model: Path) -> str:
        folder = model.parent.resolve()
        if folder != self._models or len(model.name) != _DIGEST_DIGITS or not model.name.isalnum():
            raise InvalidModel(f"expected a model artifact in {self._models}, named by its digest; got {model}")
        return model.name

    async def _bounded(self, worker: Worker, request: Request) -> ModelRun | TandemError:
        try:
            async with asyncio.timeout(self._settings.run_seconds):
                await request.done.wait()
        except TimeoutError:
            await self._stop(worker, request)
            return AttemptTimeout(f"expected the model to run within {self._settings.run_seconds:g} s, and it did not")
        except asyncio.CancelledError:
            await self._stop(worker, request)
            raise
        assert request.outcome is not None  # noqa: S101 - set before `done` is
        return request.outcome

    async def _stop(self, worker: Worker, request: Request) -> None:
        """Asks the run to end, and ends its process if it does not."""
        worker.cancel(request)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.grace_seconds):
                    await request.done.wait()
        finally:
            if not request.done.is_set():
                worker.kill()

    async def _ready_worker(self) -> tuple[Worker, Ready]:
        async with self._starting:
            worker = self._worker
            if worker is not None and worker.stopped:
                await worker.ended.wait()
                worker = None
            if worker is None:
                worker = self._worker = self._new_worker()
            return worker, await self._started(worker)

    async def _started(self, worker: Worker) -> Ready:
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                return await worker.ready()
        except TimeoutError:
            worker.kill()
            raise Unavailable(
                f"expected the inference worker to start within {self._settings.start_seconds:g} s, and it did not"
            ) from None

    def _new_worker(self) -> Worker:
        settings = WorkerSettings(
            models=self._models,
            providers=self._settings.providers,
            device=self._settings.device,
            threads=self._settings.threads,
            slots=self._settings.slots,
            cache_bytes=self._settings.cache_mib * 2**20,
        )
        worker = Worker(settings, memory_mib=self._settings.memory_mib, sandbox=self._sandbox, clock=self._clock)
        worker.start(self._group)
        return worker


def _nobody() -> None:
    """Listens to changes until someone does."""
