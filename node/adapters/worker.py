"""One inference worker as the daemon sees it: a process that takes orders and answers them by number."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import ValidationError

import node
from node.children.wire import ANSWER, PREFIX, Answer, Cancel, Done, Failed, Order, Ready, Run, WorkerSettings, lengths
from node.children.wire import head as frame_head
from node.ports.execution import ModelRun
from tandem.clock import Clock
from tandem.process import Child, Confinement, Limits, python_command, python_runtime, spawn
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import (
    ChildCrashed,
    InvalidTensor,
    MalformedMessage,
    ProtocolError,
    TandemError,
    Unavailable,
    error_from_wire,
)
from tandem.protocol.tensors import Tensor, check_tensor

_MODULE = "node.children.inference_worker"
_CPU = "CPUExecutionProvider"


@dataclass(slots=True)
class Request:
    """An order that waits for its answer: set once `done` is."""

    id: int
    outcome: ModelRun | TandemError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, outcome: ModelRun | TandemError) -> None:
        self.outcome = outcome
        self.done.set()


class Worker:
    """Lives as long as `serve` runs; then every request that is left has failed, and it takes no more."""

    def __init__(self, settings: WorkerSettings, *, memory_mib: int, sandbox: Sandbox, clock: Clock) -> None:
        self._settings = settings
        self._limits = Limits(memory_mib=memory_mib, wall_seconds=None)
        self._confinement = Confinement(
            sandbox,
            readable=(*python_runtime(node), settings.models),
            gpu=any(provider != _CPU for provider in settings.providers),
        )
        self._clock = clock
        self._numbers = itertools.count(1)
        self._pending: dict[int, Request] = {}
        self._child: Child | None = None
        self._serving: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._failure: TandemError | None = None
        self.facts: Ready | None = None
        self.pid: int | None = None
        self.stopped = False
        """True from the moment it was told to stop, or ended by itself."""
        self.ended = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> None:
        self._serving = group.create_task(self._serve())

    def kill(self) -> None:
        """Ends the process; what was pending fails."""
        self.stopped = True
        if self._serving is not None:
            self._serving.cancel()

    async def ready(self) -> Ready:
        """What the worker found when it started. Raises why it did not start."""
        await self._started.wait()
        if self.facts is None:
            raise self._failure or Unavailable("expected the inference worker to start, but it was stopped")
        return self.facts

    def submit(self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Request:
        request = Request(next(self._numbers))
        if self.stopped:
            request.settle(self._crashed())
            return request
        self._pending[request.id] = request
        metas = tuple(tensor.meta for tensor in inputs)
        self._write(
            Run(id=request.id, model=model, inputs=metas, outputs=tuple(outputs)), [each.data for each in inputs]
        )
        return request

    def cancel(self, request: Request) -> None:
        if not request.done.is_set():
            self._write(Cancel(id=request.id), [])

    def _write(self, order: Order, bodies: Sequence[bytes | memoryview]) -> None:
        # A worker that has just ended is noticed where its answers are read.
        if self._child is not None and self._child.stdin is not None:
            with suppress(ConnectionError):
                self._child.stdin.writelines([frame_head(order, sum(map(len, bodies))), *bodies])

    async def _serve(self) -> None:
        try:
            async with spawn(
                python_command(_MODULE, self._settings.model_dump_json()),
                limits=self._limits,
                confinement=self._confinement,
                clock=self._clock,
                stdin=True,
            ) as child:
                self._child, self.pid = child, child.pid
                await self._read(child)
        except TandemError as error:
            self._failure = error
        finally:
            self.stopped = True
            self._fail_pending()
            self._started.set()
            self.ended.set()

    async def _read(self, child: Child) -> None:
        try:
            while True:
                text, body = lengths(await child.stdout.readexactly(PREFIX.size))
                answer = ANSWER.validate_json(await child.stdout.readexactly(text))
                self._take(answer, await child.stdout.readexactly(body))
        except asyncio.IncompleteReadError:
            status = await child.wait()
            raise ChildCrashed(f"the inference worker ended with status {status}: {child.stderr[-500:]}") from None
        except (ValidationError, ProtocolError, InvalidTensor) as error:
            raise ChildCrashed(f"the inference worker broke its protocol: {error}") from error

    def _take(self, answer: Answer, body: bytes) -> None:
        match answer:
            case Ready():
                self.facts = answer
                self._started.set()
            case Done():
                run = ModelRun(_tensors(answer, body), answer.provider, answer.run_us, answer.warm)
                self._settle(answer.id, run)
            case Failed():
                error = error_from_wire(answer.code, answer.detail, retryable=answer.retryable)
                self._settle(answer.id, error)

    def _settle(self, number: int, outcome: ModelRun | TandemError) -> None:
        request = self._pending.pop(number, None)
        if request is None:
            raise MalformedMessage(f"expected an answer to a pending request, got one to {number}")
        request.settle(outcome)

    def _fail_pending(self) -> None:
        for request in self._pending.values():
            request.settle(self._crashed())
        self._pending.clear()

    def _crashed(self) -> TandemError:
        reason = self._failure.detail if self._failure else "it was stopped"
        return ChildCrashed(
            f"expected an answer from the inference worker, but {reason}; another attempt starts it anew"
        )


def _tensors(answer: Done, body: bytes) -> tuple[Tensor, ...]:
    if sum(meta.size for meta in answer.outputs) != len(body):
        raise MalformedMessage(f"expected tensors of {len(body)} bytes, got metadata of another size")
    tensors, offset = [], 0
    for meta in answer.outputs:
        data = body[offset : offset + meta.size]
        tensors.append(Tensor(name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data))
        check_tensor(tensors[-1])
        offset += meta.size
    return tuple(tensors)
