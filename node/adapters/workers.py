"""The worker processes of a node: one for its GPU, some for its cores, each begun anew when it ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from node.adapters.seats import Seat
from node.adapters.worker import Outcome, Worker
from node.children.wire import Head, Kind, Layout, Ready, WorkerSettings
from node.core.providers import CPU, ON_GPU, order_of
from tandem import logging as log
from tandem.clock import Clock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ChildCrashed, TandemError, Unavailable

logger = logging.getLogger(__name__)

_MIB = 2**20
_SPARE_LANES = 2
"""For the one request that may wait in the worker behind fast ones, and one whose answer is just being read."""


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Bounds and choices of the worker processes."""

    providers: tuple[str, ...] = (CPU,)
    """To try. Those of the GPU share one worker, those of the CPU are tried in each of the others."""
    device: int = 0
    workers: int = 1
    """On the CPU."""
    threads: int = 1
    """Of one run. Two halve the latency of a lone request and cost a fifth of the throughput under load."""
    slots: int = 2
    """Runs at once in each worker; more wait."""
    cache_mib: int = 1024
    """Of main memory for models, in all workers together."""
    vram_mib: int = 0
    """Of GPU memory for models and their runs."""
    memory_mib: int = 4096
    """Of a whole process; more ends it."""
    start_seconds: float = 60
    load_seconds: float = 300
    run_seconds: float = 60
    """Of one request, from when a worker has it; and that it may wait for one."""
    grace_seconds: float = 1
    """For a run to end when it is told to, before its process is killed."""


@dataclass(frozen=True, slots=True)
class Events:
    freed: Callable[[], None]
    """Some worker has room for one more run."""
    filled: Callable[[Seat], Awaitable[None]]
    """A worker is ready, with nothing loaded."""
    lost: Callable[[Seat], None]
    """A worker ended, with all that it had loaded."""


class Workers:
    """One seat for the GPU if a provider is for one, and `settings.workers` for the rest."""

    def __init__(
        self, models: Path, settings: InferenceSettings, events: Events, *, sandbox: Sandbox, clock: Clock
    ) -> None:
        self._models = models
        self._settings = settings
        self._events = events
        self._sandbox = sandbox
        self._clock = clock
        on_gpu = tuple(name for name in settings.providers if name in ON_GPU)
        on_cpu = tuple(name for name in settings.providers if name not in ON_GPU)
        self.seats = [Seat(on_gpu, settings.slots, gpu=True)] if on_gpu else []
        self.seats += [Seat(on_cpu, settings.slots) for _ in range(settings.workers)] if on_cpu else []

    def begin(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        return [group.create_task(self._keep(seat, group)) for seat in self.seats]

    def kill(self) -> None:
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.kill()

    async def ready(self) -> Ready:
        """What the workers offer, once they are up. Raises Unavailable or ChildCrashed if none starts."""
        for seat in self.seats:
            await seat.tried.wait()
        facts = [seat.facts for seat in self.seats if seat.facts is not None]
        if not facts:
            raise next(iter(seat.failure for seat in self.seats if seat.failure), Unavailable("no worker started"))
        providers = tuple(dict.fromkeys(name for each in facts for name in each.providers))
        reasons = (*(reason for each in facts for reason in each.missing), *self._failures())
        ranked = dict.fromkeys((*order_of(providers, None), *providers))
        return Ready(providers=tuple(ranked), version=facts[0].version, missing=tuple(dict.fromkeys(reasons)))

    def _failures(self) -> list[str]:
        return [seat.failure.detail for seat in self.seats if seat.failure is not None and seat.facts is None]

    @property
    def working(self) -> tuple[str, ...]:
        """The providers that passed their trial."""
        return tuple(dict.fromkeys(name for seat in self.seats for name in seat.working))

    async def load(self, seat: Seat, text: bytes) -> bytes:
        """Has the seat's worker load a model. Raises what it answers, ChildCrashed, Unavailable."""
        worker = await self._up(seat)
        answered: asyncio.Future[bytes | TandemError] = asyncio.get_running_loop().create_future()
        seconds = self._settings.load_seconds
        late = ChildCrashed(f"expected the model to load within {seconds:g} s, and it did not")
        order = worker.order(
            Kind.LOAD,
            text,
            lambda head, outcome: _settle(answered, head, outcome),
            due=self._clock.monotonic() + seconds,
            late=lambda: None if answered.done() else answered.set_result(late),
        )
        try:
            outcome = await answered
        except asyncio.CancelledError:
            worker.cancel(order)
            raise
        if isinstance(outcome, TandemError):
            raise outcome
        return outcome

    def unload(self, seat: Seat, digest: str) -> None:
        if seat.worker is not None:
            seat.worker.tell(Kind.UNLOAD, digest.encode())
            # CUDA gives memory back only when its process ends.
            seat.renew = seat.gpu

    def check(self) -> None:
        """Ends orders that are due, workers that do not obey, and idle ones that are to give memory back."""
        now = self._clock.monotonic()
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.check(now, self._settings.grace_seconds)
                if seat.renew and not seat.busy and seat.up.is_set():
                    seat.renew = False
                    seat.worker.kill()

    async def _up(self, seat: Seat) -> Worker:
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                await seat.up.wait()
        except TimeoutError:
            raise seat.failure or Unavailable("expected an inference worker, but none starts") from None
        assert seat.worker is not None  # noqa: S101 - it is up
        return seat.worker

    async def _keep(self, seat: Seat, group: asyncio.TaskGroup) -> None:
        """Fills the seat, again and again."""
        while True:
            began = self._clock.monotonic()
            worker = seat.worker = self._new_worker(seat)
            worker.start(group)
            await self._begun(seat, worker)
            if seat.up.is_set():
                await self._events.filled(seat)
            await worker.ended.wait()
            seat.up.clear()
            seat.failure = worker.failure
            self._events.lost(seat)
            detail = worker.failure.detail if worker.failure else "it was told to"
            log.event(logger, "worker_ended", level=logging.WARNING, detail=detail)
            await self._clock.sleep(seat.backoff(self._clock.monotonic() - began))

    async def _begun(self, seat: Seat, worker: Worker) -> None:
        seconds = self._settings.start_seconds
        try:
            async with asyncio.timeout(seconds):
                seat.facts = await worker.ready()
            seat.up.set()
        except TimeoutError:
            seat.failure = Unavailable(f"expected the inference worker to start within {seconds:g} s, and it did not")
            worker.kill(seat.failure)
        except TandemError as error:
            seat.failure = error
        seat.tried.set()

    def _new_worker(self, seat: Seat) -> Worker:
        settings = WorkerSettings(
            models=self._models,
            providers=seat.providers,
            device=self._settings.device,
            threads=self._settings.threads,
            slots=seat.slots,
            lanes=seat.slots + _SPARE_LANES,
            memory_bytes=(self._settings.vram_mib if seat.gpu else self._settings.memory_mib) * _MIB,
        )
        return Worker(
            settings,
            memory_mib=self._settings.memory_mib,
            sandbox=self._sandbox,
            clock=self._clock,
            freed=self._events.freed,
        )


def _settle(answered: asyncio.Future[bytes | TandemError], head: Head, outcome: Outcome) -> None:
    if isinstance(outcome, Layout) or (isinstance(outcome, bytes) and head.kind != Kind.LOADED):
        raise ValueError(f"expected what was loaded, got a message of kind {head.kind}")
    if not answered.done():
        answered.set_result(outcome)
