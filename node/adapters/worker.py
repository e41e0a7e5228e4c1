"""One inference worker as the daemon sees it: a process that takes orders and answers them by number."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

import node
from node.adapters.shared import SharedLanes
from node.children.wire import (
    HEAD,
    MAX_MESSAGE_BYTES,
    NUMBER,
    Failed,
    Head,
    Kind,
    Layout,
    Ready,
    WorkerSettings,
    read_outputs,
)
from node.core.providers import ON_GPU
from tandem.clock import Clock
from tandem.process import Child, Confinement, Limits, python_command, python_runtime, spawn
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ChildCrashed, InvalidTensor, TandemError, Unavailable, error_from_wire
from tandem.protocol.tensors import Datatype, Tensor, check_tensor

_MODULE = "node.children.inference_worker"
_NO_LANE = -1


Outcome = bytes | Layout | TandemError
"""The text of an answer, where the outputs of a run lie, or why there is no answer or a bad one."""


@dataclass(slots=True, eq=False)
class Order:
    """What the worker was told to do, until it answers."""

    number: int
    answer: Callable[[Head, Outcome], None]
    """Called once."""
    lane: int
    due: float
    """When it should have been answered, by the clock's monotonic seconds."""
    late: Callable[[], None]
    """Called when it is due and not answered; then it is cancelled."""
    cancelled_at: float | None = None
    inputs: int = 0
    """Bytes in the lane."""


class Worker:
    """Lives as long as `serve` runs; then every order that is left has failed, and it takes no more."""

    def __init__(
        self, settings: WorkerSettings, *, memory_mib: int, sandbox: Sandbox, clock: Clock, freed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._limits = Limits(memory_mib=memory_mib, wall_seconds=None)
        self._confinement = Confinement(
            sandbox,
            readable=(*python_runtime(node), settings.models),
            gpu=any(provider in ON_GPU for provider in settings.providers),
        )
        self._clock = clock
        self._freed = freed
        self._numbers = itertools.count(1)
        self._orders: dict[int, Order] = {}
        self._lanes = list(range(settings.lanes))
        self._buffer = memoryview(bytearray(MAX_MESSAGE_BYTES))
        self._serving: asyncio.Task[None] | None = None
        self._started, self._closed = asyncio.Event(), asyncio.Event()
        self.facts: Ready | None = None
        self.failure: TandemError | None = None
        self.pid: int | None = None
        self._killed = False
        self.culprit: Order | None = None
        """What it was killed for, if it did not obey."""
        self.stopped = False
        """True from the moment it was told to stop, or ended by itself."""
        self.ended = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> None:
        self._serving = group.create_task(self._serve())

    def kill(self, failure: TandemError | None = None) -> None:
        """Ends the process; what was pending fails. Once, since a second cancellation would disturb the first."""
        again, self._killed, self.stopped = self._killed, True, True
        self.failure = self.failure or failure
        if self._serving is not None and not again:
            self._serving.cancel()

    async def ready(self) -> Ready:
        """What the worker found when it started. Raises why it did not start."""
        await self._started.wait()
        if self.facts is None:
            raise self.failure or Unavailable("expected the inference worker to start, but it was stopped")
        return self.facts

    # --- orders

    def lane(self) -> int | None:
        """A free lane for a request's tensors, which the answer to its order frees again."""
        return self._lanes.pop() if self._lanes and not self.stopped else None

    def write(self, lane: int, offsets: Sequence[int], pieces: Sequence[Sequence[bytes | memoryview]]) -> None:
        for offset, each in zip(offsets, pieces, strict=True):
            self._shared.write(lane, offset, each)

    def order(
        self,
        kind: Kind,
        text: bytes,
        answer: Callable[[Head, Outcome], None],
        *,
        due: float,
        late: Callable[[], None],
        lane: int = _NO_LANE,
        inputs: int = 0,
    ) -> Order:
        """`answer` is called once, never before this returns."""
        number = next(self._numbers)
        order = self._orders[number] = Order(number, answer, lane, due, late, inputs=inputs)
        if not self._send(kind, text, max(lane, 0), number):
            # What does not read its orders any more is beyond help; the end of its process fails this one too.
            self.kill(ChildCrashed("the inference worker took no more orders"))
        return order

    def tell(self, kind: Kind, text: bytes) -> None:
        """An order that has no answer."""
        self._send(kind, text)

    def cancel(self, order: Order) -> None:
        """Asks the worker to end the order; it is answered all the same, or the worker is killed by `check`."""
        if order.number in self._orders and order.cancelled_at is None:
            order.cancelled_at = self._clock.monotonic()
            # A worker that has just ended is noticed by its socket.
            if self._child is not None and self._child.stdin is not None:
                with contextlib.suppress(ConnectionError):
                    self._child.stdin.write(NUMBER.pack(order.number))

    def check(self, now: float, grace: float) -> None:
        """Cancels orders that are due, and kills a worker that does not obey within `grace` seconds."""
        for order in list(self._orders.values()):
            if order.cancelled_at is None and now >= order.due:
                self.cancel(order)
                order.late()
            elif order.cancelled_at is not None and now >= order.cancelled_at + grace:
                self.culprit = order
                self.kill(ChildCrashed(f"the inference worker did not end a run within {grace:g} s"))
                return

    def read(self, order: Order, layout: Layout) -> tuple[Tensor, ...]:
        """The outputs in the order's lane. Raises InvalidTensor for strings that are not what they should be."""
        tensors = self._shared.read(order.lane, layout)
        for tensor in tensors:
            if tensor.datatype is Datatype.BYTES:
                check_tensor(tensor)
        return tensors

    # --- the process

    def _send(self, kind: Kind, text: bytes, lane: int = 0, number: int = 0) -> bool:
        if self.stopped or self._child is None:
            return False
        try:
            self._socket.send(HEAD.pack(kind, lane, 0, number) + text)
        except OSError:  # BlockingIOError among them
            return False
        return True

    _child: Child | None = None

    async def _serve(self) -> None:
        self._shared = SharedLanes(self._settings.lanes)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)  # noqa: FBT003 - socket's own
        loop = asyncio.get_running_loop()
        try:
            async with self._spawned(theirs) as child:
                theirs.close()
                self._child, self.pid = child, child.pid
                loop.add_reader(self._socket, self._readable)
                await self._closed.wait()
                if self.failure is None:
                    status = await child.wait()
                    self.failure = ChildCrashed(
                        f"the inference worker ended with status {status}: {child.stderr[-500:]}"
                    )
        except TandemError as error:
            self.failure = self.failure or error
        finally:
            self.stopped = True
            loop.remove_reader(self._socket)
            theirs.close()
            self._socket.close()
            self._fail_orders()
            self._shared.close()
            self._started.set()
            self.ended.set()

    def _spawned(self, theirs: socket.socket) -> contextlib.AbstractAsyncContextManager[Child]:
        descriptors = (theirs.fileno(), self._shared.descriptor)
        settings = self._settings.model_copy(update={"socket": descriptors[0], "shared": descriptors[1]})
        return spawn(
            python_command(_MODULE, settings.model_dump_json()),
            limits=self._limits,
            confinement=self._confinement,
            clock=self._clock,
            stdin=True,
            pass_fds=descriptors,
        )

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size < HEAD.size:
            self._close()
            return
        head = Head._make(HEAD.unpack_from(self._buffer))
        text = bytes(self._buffer[HEAD.size : size])
        try:
            self._take(head, text)
        except (ValidationError, ValueError, InvalidTensor) as error:
            self.failure = ChildCrashed(f"the inference worker broke its protocol: {error}")
            self._close()

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self.stopped = True
        self._closed.set()

    def _take(self, head: Head, text: bytes) -> None:
        if head.kind == Kind.READY and self.facts is None:
            self.facts = Ready.model_validate_json(text)
            self._started.set()
            return
        order = self._orders.get(head.number)
        if order is None:
            raise ValueError(f"expected an answer to an order, got one to {head.number}")
        outcome: Outcome = text
        used = 0
        if head.kind == Kind.DONE:
            outcome = read_outputs(text)
            used = outcome.end
        elif head.kind == Kind.FAILED:
            failed = Failed.model_validate_json(text)
            outcome = error_from_wire(failed.code, failed.detail, retryable=failed.retryable)
        order.answer(head, outcome)
        del self._orders[head.number]
        self._release(order, used)
        self._freed()

    def _release(self, order: Order, used: int) -> None:
        if order.lane != _NO_LANE:
            self._shared.trim(order.lane, order.inputs, used)
            self._lanes.append(order.lane)

    def _fail_orders(self) -> None:
        orders, self._orders = list(self._orders.values()), {}
        for order in orders:
            order.answer(Head(Kind.FAILED, 0, 0, order.number), self._crashed())

    def _crashed(self) -> TandemError:
        reason = self.failure.detail if self.failure else "it was stopped"
        return ChildCrashed(
            f"expected an answer from the inference worker, but {reason}; another attempt starts it anew"
        )
