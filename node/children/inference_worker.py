"""The inference worker: the one process of a node that loads ONNX Runtime. `python -m node.children.inference_worker`.

Its threads take turns to read orders from standard input, and each carries out what it has read: a request is never
handed from thread to thread, and while all slots are taken one thread is left to hear of cancellations.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, assert_never

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from node.children.sessions import Cancellation, Cancelled, Loaded, SessionCache
from node.children.wire import (
    MAX_BODY_BYTES,
    ORDER,
    PREFIX,
    Answer,
    Cancel,
    Done,
    Failed,
    Order,
    Ready,
    Run,
    WorkerSettings,
    head,
    lengths,
)
from tandem.inspection.model_rules import TENSOR_TYPES
from tandem.protocol.errors import (
    ExecutionFailed,
    InvalidModel,
    InvalidTensor,
    NoCapacity,
    TandemError,
    TooLarge,
)
from tandem.protocol.tensors import Datatype, Tensor, TensorMeta, check_tensor, join_bytes, split_bytes

_DTYPES: Mapping[Datatype, str] = {
    Datatype(name): dtype for name, dtype in TENSOR_TYPES.values() if name != Datatype.BYTES
}
_CANCELLED = Failed(id=0, code="cancelled", detail="cancelled", retryable=True)
_BUG = 70
_NAME_LENGTH = 100


class Task(NamedTuple):
    """One request on its way through a thread."""

    order: Run
    body: memoryview
    cancellation: Cancellation


class Worker:
    """Orders in, answers out, until standard input ends."""

    def __init__(self, sessions: SessionCache, orders: BinaryIO, answers: BinaryIO) -> None:
        self._sessions = sessions
        self._orders = orders
        self._answers = answers
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._running: dict[int, Cancellation] = {}

    def serve(self, slots: int) -> None:
        self._write(
            Ready(
                providers=self._sessions.providers,
                version=ort.__version__,
                missing=tuple(self._sessions.missing),
            )
        )
        for _ in range(slots):
            threading.Thread(target=self._loop).start()
        self._loop()

    def _loop(self) -> None:
        try:
            while True:
                task = self._next()
                if task is not None:
                    self._carry_out(task)
        except EOFError:
            os._exit(0)  # the daemon is done with us; runs under way are nobody's
        except BaseException:  # noqa: BLE001 - a bug: the daemon must see the process end, not hang
            traceback.print_exc()
            os._exit(_BUG)

    def _next(self) -> Task | None:
        with self._reading:
            order, body = self._read()
            match order:
                case Run():
                    # Before another thread can read its cancellation.
                    cancellation = self._running[order.id] = Cancellation()
                    return Task(order, body, cancellation)
                case Cancel():
                    if (running := self._running.get(order.id)) is not None:
                        running.cancel()
                    return None
                case _:
                    assert_never(order)

    def _read(self) -> tuple[Order, memoryview]:
        text, body = lengths(bytes(self._exactly(PREFIX.size)))
        return ORDER.validate_json(bytes(self._exactly(text))), self._exactly(body)

    def _exactly(self, size: int) -> memoryview:
        view = memoryview(bytearray(size))
        if self._orders.readinto(view) < size:  # type: ignore[attr-defined]
            raise EOFError
        return view

    def _carry_out(self, task: Task) -> None:
        try:
            answer, bodies = self._run(task)
        except (Cancelled, TandemError, MemoryError) as error:
            answer, bodies = _failure(task.order.id, error), ()
        del self._running[task.order.id]
        self._write(answer, bodies)

    def _run(self, task: Task) -> tuple[Answer, Sequence[Any]]:
        order = task.order
        with self._sessions.use(order.model, task.cancellation) as (loaded, warm):
            feeds = _feeds(loaded, order.inputs, task.body)
            names = _wanted(loaded, order.outputs)
            started = time.perf_counter_ns()
            arrays = _execute(loaded, names, feeds, task.cancellation)
            run_us = (time.perf_counter_ns() - started) // 1000
            results = [_result(name, loaded.outputs[name], array) for name, array in zip(names, arrays, strict=True)]
        metas = tuple(meta for meta, _ in results)
        _check_size(metas)
        answer = Done(id=order.id, outputs=metas, provider=loaded.provider, run_us=run_us, warm=warm)
        return answer, [data for _, data in results]

    def _write(self, answer: Answer, bodies: Sequence[Any] = ()) -> None:
        with self._writing:
            self._answers.write(head(answer, sum(len(body) for body in bodies)))
            for body in bodies:
                self._answers.write(body)
            self._answers.flush()


def _failure(number: int, error: Exception) -> Failed:
    match error:
        case TandemError():
            return Failed(id=number, code=error.code, detail=error.detail[:2000], retryable=error.retryable)
        case Cancelled():
            return _CANCELLED.model_copy(update={"id": number})
        case _:
            return _failure(number, NoCapacity(f"expected memory for the model and its tensors, got none: {error}"))


def _feeds(loaded: Loaded, metas: Sequence[TensorMeta], body: memoryview) -> dict[str, NDArray[Any]]:
    names = [meta.name for meta in metas]
    if sorted(names) != sorted(loaded.inputs):
        raise InvalidTensor(f"expected the tensors {sorted(loaded.inputs)}, each once, got {sorted(names)}")
    feeds, offset = {}, 0
    for meta in metas:
        expected = loaded.inputs[meta.name]
        if meta.datatype is not expected:
            raise InvalidTensor(f"tensor {meta.name!r}: expected datatype {expected}, got {meta.datatype}")
        feeds[meta.name] = _array(meta, body[offset : offset + meta.size])
        offset += meta.size
    return feeds


def _array(meta: TensorMeta, data: memoryview) -> NDArray[Any]:
    """A view of the data where that is possible."""
    if meta.datatype is Datatype.BYTES:
        return _strings(meta, bytes(data))
    check_tensor(Tensor(meta.name, meta.datatype, meta.shape, data))
    array = np.frombuffer(data, _DTYPES[meta.datatype]).reshape(meta.shape)
    return array if array.flags.aligned else array.copy()


def _strings(meta: TensorMeta, data: bytes) -> NDArray[Any]:
    items = split_bytes(Tensor(name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data))
    try:
        texts = [item.decode() for item in items]
    except UnicodeDecodeError as error:
        raise InvalidTensor(f"tensor {meta.name!r}: expected strings in UTF-8: {error}") from error
    return np.array(texts, dtype=object).reshape(meta.shape)


def _wanted(loaded: Loaded, names: Sequence[str]) -> list[str]:
    unknown = set(names) - loaded.outputs.keys()
    if unknown:
        raise InvalidModel(f"expected outputs among {sorted(loaded.outputs)}, was asked for {sorted(unknown)}")
    return list(names or loaded.outputs)


def _execute(
    loaded: Loaded, names: list[str], feeds: Mapping[str, NDArray[Any]], cancellation: Cancellation
) -> list[Any]:
    try:
        return list(loaded.session.run(names, feeds, cancellation.options))
    except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        raise InvalidTensor(f"expected tensors that the model takes, got: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        cancellation.check()
        raise ExecutionFailed(f"expected the model to run on these tensors, got: {error}") from error


def _result(name: str, datatype: Datatype, value: Any) -> tuple[TensorMeta, Any]:
    if not isinstance(value, np.ndarray):
        raise ExecutionFailed(f"output {name!r}: expected a tensor, got {type(value).__name__}")
    if datatype is Datatype.BYTES:
        data: Any = join_bytes(str(item).encode() for item in value.flat)
    else:
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    try:
        return TensorMeta(name=name, datatype=datatype, shape=value.shape, size=len(data)), data
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ExecutionFailed(f"output {name[:_NAME_LENGTH]!r}: expected a shape within bounds: {reason}") from error


def _check_size(metas: Sequence[TensorMeta]) -> None:
    size = sum(meta.size for meta in metas)
    if size > MAX_BODY_BYTES:
        raise TooLarge(f"expected outputs of at most {MAX_BODY_BYTES} bytes in all, got {size}; ask for fewer at once")


def main() -> None:
    settings = WorkerSettings.model_validate_json(sys.argv[1])
    # What libraries print must not end up between the frames.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sessions = SessionCache(settings)
    if not sessions.providers:
        sys.exit("; ".join(sessions.missing))
    Worker(sessions, sys.stdin.buffer, answers).serve(settings.slots)


if __name__ == "__main__":
    main()
