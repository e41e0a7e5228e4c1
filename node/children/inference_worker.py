"""The inference worker: the one process of a node that loads ONNX Runtime. `python -m node.children.inference_worker`.

Each of its threads takes an order from the socket and carries it out itself: a request is never handed from thread to
thread. One more thread hears of cancellations, by standard input, so that they do not wait behind orders; and each load
has a thread of its own, so that runs do not wait for it.
"""

import gc
import mmap
import os
import resource
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable

import onnxruntime as ort

from node.children.calls import Prepared
from node.children.sessions import (
    Cancellation,
    Cancelled,
    Sessions,
    address_space,
    give_back,
    save_memory,
)
from node.children.wire import (
    HALF_LANE,
    HEAD,
    MAX_MESSAGE_BYTES,
    NUMBER,
    Failed,
    Head,
    Kind,
    Load,
    Loaded,
    Ready,
    WorkerSettings,
    read_call,
)
from node.core.providers import ON_GPU
from tandem.protocol.errors import MalformedMessage, NoCapacity, TandemError

_CANCELLED = Failed(code="cancelled", detail="cancelled", retryable=True)
_BUG = 70
_DETAIL_LENGTH = 2000
_MAX_EARLY = 1024
_MAX_CALLS = 64
"""That are made ready for a session."""
_IDLE_SECONDS = 5.0
_SLACK_BYTES = 256 * 2**20
"""Of address space for what is no model's: stacks of threads, buffers."""


class Worker:
    """Orders in, answers out, until standard input ends."""

    def __init__(self, sessions: Sessions, settings: WorkerSettings) -> None:
        self._sessions = sessions
        self._slots = settings.slots
        self._socket = socket.socket(fileno=settings.socket)
        self._shared = mmap.mmap(settings.shared, settings.lanes * 2 * HALF_LANE)
        self._changing = threading.Lock()
        self._running: dict[int, Cancellation] = {}
        self._early: set[int] = set()
        """Cancellations that came before their orders."""
        self._runs = self._trimmed = 0

    def serve(self) -> None:
        ready = Ready(
            providers=self._sessions.providers, version=ort.__version__, missing=tuple(self._sessions.missing)
        )
        gc.freeze()
        self._answer(Head(Kind.READY, 0, 0, 0), ready.model_dump_json().encode())
        for _ in range(self._slots):
            self._thread(self._orders)
        self._guarded(self._cancellations)

    def _thread(self, work: Callable[[], None]) -> None:
        threading.Thread(target=self._guarded, args=(work,)).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a bug: the daemon must see the process end, not hang
            traceback.print_exc()
            os._exit(_BUG)

    def _cancellations(self) -> None:
        while len(data := self._heard()) == NUMBER.size:
            (number,) = NUMBER.unpack(data)
            with self._changing:
                cancellation = self._running.get(number)
                if cancellation is None:
                    self._early = {number} if len(self._early) >= _MAX_EARLY else self._early | {number}
            if cancellation is not None:
                cancellation.cancel()
        os._exit(0)  # the daemon is done with us; runs under way are nobody's

    def _heard(self) -> bytes:
        """The next cancellation. A worker that has become idle gives back what its runs have left, meanwhile."""
        descriptor, last = sys.stdin.fileno(), 0
        while not select.select([descriptor], [], [], _IDLE_SECONDS)[0]:
            if self._runs == last != self._trimmed:
                self._trimmed = last
                give_back()
            last = self._runs
        return os.read(descriptor, NUMBER.size)

    def _orders(self) -> None:
        buffer = memoryview(bytearray(MAX_MESSAGE_BYTES))
        while size := self._socket.recv_into(buffer):
            head = Head._make(HEAD.unpack_from(buffer))
            text = bytes(buffer[HEAD.size : size])
            match head.kind:
                case Kind.RUN:
                    self._carry_out(head, text, self._run)
                case Kind.LOAD:
                    self._thread(lambda head=head, text=text: self._carry_out(head, text, self._load))  # type: ignore[misc]
                case Kind.UNLOAD:
                    self._sessions.unload(text.decode())
                case _:
                    raise MalformedMessage(f"expected an order, got a message of kind {head.kind}")

    def _carry_out(
        self, head: Head, text: bytes, order: Callable[[Head, bytes, Cancellation], tuple[Head, bytes]]
    ) -> None:
        cancellation = self._begin(head.number)
        self._runs += 1
        try:
            answer, said = order(head, text, cancellation)
        except (Cancelled, TandemError, MemoryError) as error:
            answer, said = Head(Kind.FAILED, head.lane, 0, head.number), _failure(error).model_dump_json().encode()
        with self._changing:
            del self._running[head.number]
        self._answer(answer, said)

    def _begin(self, number: int) -> Cancellation:
        cancellation = Cancellation()
        with self._changing:
            self._running[number] = cancellation
            early = number in self._early
            self._early.discard(number)
        if early:
            cancellation.cancel()
        return cancellation

    def _load(self, head: Head, text: bytes, cancellation: Cancellation) -> tuple[Head, bytes]:
        session = self._sessions.load(Load.model_validate_json(text), cancellation)
        loaded = Loaded(
            provider=session.provider,
            memory=session.memory,
            vram=session.vram,
            partial=session.partial,
            batchable=session.batchable,
        )
        return Head(Kind.LOADED, 0, 0, head.number), loaded.model_dump_json().encode()

    def _run(self, head: Head, text: bytes, cancellation: Cancellation) -> tuple[Head, bytes]:
        call, offsets = read_call(text)
        session = self._sessions.get(call.model)
        prepared: Prepared | None = session.calls.get(text)
        if prepared is None:
            if len(session.calls) >= _MAX_CALLS:
                session.calls.clear()
            prepared = session.calls[text] = Prepared(session, call, offsets, self._shared)
        run_us, said = prepared.run(head.lane, cancellation)
        return Head(Kind.DONE, head.lane, min(run_us, 2**32 - 1), head.number), said

    def _answer(self, head: Head, text: bytes) -> None:
        self._socket.send(HEAD.pack(*head) + text)


def _failure(error: Exception) -> Failed:
    match error:
        case TandemError():
            return Failed(code=error.code, detail=error.detail[:_DETAIL_LENGTH], retryable=error.retryable)
        case Cancelled():
            return _CANCELLED
        case _:
            give_back()
            return _failure(NoCapacity(f"expected memory for the model and its tensors, got none: {error}"))


def main() -> None:
    settings = WorkerSettings.model_validate_json(sys.argv[1])
    save_memory(loading=False)
    # Nothing reads what libraries print there; standard error is kept.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sessions = Sessions(settings)
    if not sessions.providers:
        sys.exit("; ".join(sessions.missing))
    if not any(provider in ON_GPU for provider in settings.providers):  # CUDA maps more than there is
        bound = address_space() + settings.lanes * 2 * HALF_LANE + settings.memory_bytes + _SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    Worker(sessions, settings).serve()


if __name__ == "__main__":
    main()
