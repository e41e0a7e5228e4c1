"""Requests on their way to the workers and back. Everything here happens at once, in callbacks: nothing is awaited."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from node.adapters.seats import Seat
from node.adapters.served import Batch, Request, Served
from node.adapters.worker import Outcome
from node.children.wire import Head, Kind, Layout, call_text
from node.core.batching import Merged, merge, split, splits
from node.ports.execution import Done, ModelRun
from tandem.clock import Clock
from tandem.protocol.errors import AttemptTimeout, NoCapacity, TandemError
from tandem.protocol.tensors import Tensor
from tandem.waiting import tell

_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    run_seconds: float
    """Of one request, from when a worker has it; and that it may wait for one."""
    waiting: int = 4096
    """Requests that may wait for a worker."""
    waiting_bytes: int = 2**28


class Dispatcher:
    """`wanting` is called with a model whose requests wait, while workers that do not have it loaded may be idle."""

    def __init__(self, limits: DispatchLimits, clock: Clock, wanting: Callable[[Served], None]) -> None:
        self._limits = limits
        self._clock = clock
        self._wanting = wanting
        self._waiting: dict[Served, None] = {}
        self._count = self._bytes = 0

    def submit(self, served: Served, inputs: Sequence[Tensor], outputs: Sequence[str], done: Done) -> Request:
        request = Request(served, (inputs, outputs), done, self._clock.monotonic(), self._cancelled)
        if self._count >= self._limits.waiting or self._bytes + request.size > self._limits.waiting_bytes:
            error = NoCapacity(f"expected room for one more request, but {self._count} wait already; try again later")
            asyncio.get_running_loop().call_soon(self._deliver, request, error)
            return request
        self._count += 1
        self._bytes += request.size
        served.meter.hits += 1
        served.queue.append(request)
        if len(served.queue) == 1 or request.batches:
            self.pump(served)
        return request

    def pump(self, served: Served) -> None:
        """Sends what workers have room for."""
        while served.queue:
            seat = self._seat(served)
            if seat is None:
                self._waiting[served] = None
                self._wanting(served)
                return
            now = self._clock.monotonic()
            group = served.take(now)
            if group:
                self._send(served, seat, group, now)
            elif served.queue:
                self._later(served)
                return
        self._waiting.pop(served, None)

    def freed(self) -> None:
        """Some worker has room again: those that wait take turns."""
        for served in list(self._waiting):
            del self._waiting[served]
            self.pump(served)

    def check(self) -> None:
        """Fails what has waited too long."""
        before = self._clock.monotonic() - self._limits.run_seconds
        for served in list(self._waiting):
            while served.queue and served.queue[0].since < before:
                self._late(served.queue.popleft())

    def fail(self, served: Served, error: TandemError) -> None:
        """Everything that waits for the model."""
        self._waiting.pop(served, None)
        while served.queue:
            self._deliver(self._unqueued(served.queue.popleft()), error)

    # --- to the worker

    def _seat(self, served: Served) -> Seat | None:
        """The least busy one that has the model and room."""
        fast = served.fast and not served.batches
        found = None
        for seat in served.seats:
            if (found is None or seat.busy < found.busy) and seat.room(fast=fast):
                found = seat
        return found

    def _later(self, served: Served) -> None:
        if served.timer is None:
            loop = asyncio.get_running_loop()
            delay = served.wait_until - self._clock.monotonic()
            served.timer = loop.call_later(max(0.0, delay), self._window_over, served)

    def _window_over(self, served: Served) -> None:
        served.timer = None
        self.pump(served)

    def _send(self, served: Served, seat: Seat, requests: list[Request], now: float) -> None:
        for request in requests:
            self._unqueued(request)
        facts, pieces = _laid_out(requests)
        try:
            text, offsets = call_text(served.files.digest, facts, requests[0].outputs)
        except TandemError as error:
            self._fail_or_separate(requests, error, alive=True)
            return
        worker = seat.worker
        lane = worker.lane() if worker is not None else None
        if worker is None or lane is None:  # it has just been stopped
            self._fail_all(requests, NoCapacity("expected a free lane of the worker, got none; try again"))
            return
        worker.write(lane, offsets, pieces)
        batch = Batch(served, requests, seat, worker, fast=served.fast, sent=now)
        for request in requests:
            request.batch = batch
        seat.begin(fast=batch.fast)
        served.running += 1
        batch.order = worker.order(
            Kind.RUN,
            text,
            partial(self._answered, batch),
            due=batch.sent + self._limits.run_seconds,
            late=partial(self._overdue, requests),
            lane=lane,
            inputs=sum([request.size for request in requests]),
        )

    def _unqueued(self, request: Request) -> Request:
        self._count -= 1
        self._bytes -= request.size
        return request

    def _cancelled(self, request: Request) -> None:
        request.over = True
        request.served.meter.failures["cancelled"] += 1
        batch = request.batch
        if batch is None:
            if request in request.served.queue:
                request.served.queue.remove(request)
                self._unqueued(request)
        elif batch.order is not None and all(each.over for each in batch.requests):
            batch.worker.cancel(batch.order)

    # --- and back

    def _answered(self, batch: Batch, head: Head, outcome: Outcome) -> None:
        """Raises ValueError or InvalidTensor for an answer that is none, before anything is given out."""
        served = batch.served
        if isinstance(outcome, TandemError):
            self._ended(batch)
            if self._innocent(batch):
                self._again(batch.requests)
                return
            if batch.worker.stopped:
                batch.seat.blamed.add(served)
            self._fail_or_separate(batch.requests, outcome, alive=not batch.worker.stopped)
            return
        if not isinstance(outcome, Layout) or batch.order is None:
            raise ValueError(f"expected the outputs of a run, got a message of kind {head.kind}")
        rows = [request.rows for request in batch.requests]
        together = len(rows) > 1
        if together and not splits(outcome.metas, rows):
            served.splits = False  # it is not what its shapes promise
            self._ended(batch)
            self._separate(batch.requests)
            return
        outputs = batch.worker.read(batch.order, outcome)
        self._ended(batch)
        served.ran(head.run_us)
        served.meter.run.add(head.run_us)
        served.meter.batches.add(len(rows))
        for request, own in zip(batch.requests, split(outputs, rows) if together else [outputs], strict=True):
            if not request.over:
                self._finish(batch, request, own, head.run_us)

    def _finish(self, batch: Batch, request: Request, outputs: tuple[Tensor, ...], run_us: int) -> None:
        meter, loaded = batch.served.meter, batch.served.seats.get(batch.seat) or batch.served.loaded
        queue_us = int((batch.sent - request.since) * _MICRO)
        meter.requests += 1
        meter.queue.add(queue_us)
        meter.total.add(int((self._clock.monotonic() - request.since) * _MICRO))
        request.over = True
        provider = loaded.provider if loaded is not None else ""
        run = ModelRun(outputs, provider, run_us, warm=True, queue_us=queue_us, batch=len(batch.requests))
        tell(request.done, run)

    def _ended(self, batch: Batch) -> None:
        batch.seat.end(fast=batch.fast)
        batch.served.running -= 1

    def _fail_or_separate(self, requests: list[Request], error: TandemError, *, alive: bool) -> None:
        """One request must not fail the others of its batch; but a worker that ended has lost them all."""
        if len(requests) > 1 and alive:
            self._separate(requests)
        else:
            self._fail_all(requests, error)

    def _innocent(self, batch: Batch) -> bool:
        """Whether the worker was killed for another run; then this one is begun again, once."""
        culprit = batch.worker.culprit
        return (
            culprit is not None
            and culprit is not batch.order
            and not any(request.again for request in batch.requests)
            and not batch.served.gone
        )

    def _again(self, requests: list[Request]) -> None:
        for request in reversed(requests):
            if not request.over:
                request.again, request.batch = True, None
                self._count += 1
                self._bytes += request.size
                request.served.queue.appendleft(request)
        asyncio.get_running_loop().call_soon(self.pump, requests[0].served)

    def _separate(self, requests: list[Request]) -> None:
        for request in requests:
            request.rows = 0
        self._again(requests)

    def _fail_all(self, requests: Sequence[Request], error: TandemError) -> None:
        for request in requests:
            self._deliver(request, error)

    def _deliver(self, request: Request, error: TandemError) -> None:
        if not request.over:
            request.over = True
            request.served.meter.failures[error.code] += 1
            tell(request.done, error)

    def _overdue(self, requests: Sequence[Request]) -> None:
        self._fail_all(requests, self._timeout())

    def _late(self, request: Request) -> None:
        self._deliver(self._unqueued(request), self._timeout())

    def _timeout(self) -> AttemptTimeout:
        seconds = self._limits.run_seconds
        return AttemptTimeout(f"expected the model to run within {seconds:g} s, and it did not")


def _laid_out(requests: Sequence[Request]) -> tuple[tuple[Merged, ...], list[list[bytes | memoryview]]]:
    if len(requests) > 1:
        return merge([request.inputs for request in requests])
    inputs = requests[0].inputs
    facts = tuple([(tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in inputs])
    return facts, [[tensor.data] for tensor in inputs]
