"""Runs in a lane: what a call asks for is made ready once, since the same few calls come over and over."""

import mmap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from node.children.sessions import DTYPES, Cancellation, Session
from node.children.wire import HALF_LANE, MAX_BODY_BYTES, Call, Facts, offsets_of, outputs_text
from tandem.protocol.errors import ExecutionFailed, InvalidModel, InvalidTensor, TooLarge
from tandem.protocol.tensors import Datatype, Tensor, TensorMeta, fits, join_bytes, split_bytes

_NAME_LENGTH = 100


class Prepared:
    """A call of one session.

    Where outputs came out alike twice they are bound to the lane: ONNX Runtime writes the next ones there itself. A
    call whose outputs turn out to vary is not bound any more.
    """

    __slots__ = ("_binds", "_bound", "_inputs", "_names", "_run_bound", "_said", "_session", "_shared")

    def __init__(self, session: Session, call: Call, offsets: Sequence[int], shared: mmap.mmap) -> None:
        """Raises InvalidTensor or InvalidModel for what the model does not have."""
        _check_names(session, call)
        self._session = session
        self._shared = shared
        self._inputs = [(meta, session.inputs[meta.name], at) for meta, at in zip(call.inputs, offsets, strict=True)]
        self._names = _wanted(session, call.outputs)
        self._binds = session.binds and len(set(self._names)) == len(self._names)
        self._said = b""
        # What is around it in Python costs 30 µs a run, for devices that are not bound here.
        self._run_bound = session.session._sess.run_with_iobinding  # noqa: SLF001
        self._bound: dict[int, tuple[Any, bytes]] = {}
        """By lane, with the text that says what it lays there."""

    def run(self, lane: int, cancellation: Cancellation) -> tuple[int, bytes]:
        """Microseconds of the run, and the text that says what it has laid into the lane.

        Raises InvalidTensor, ExecutionFailed, TooLarge, MemoryError, Cancelled.
        """
        bound = self._bound.get(lane)
        if bound is not None:
            started = time.perf_counter_ns()
            if self._ran(bound[0], cancellation):
                return (time.perf_counter_ns() - started) // 1000, bound[1]
        base = lane * 2 * HALF_LANE
        feeds = {meta.name: _array(meta, expected, self._shared, base + at) for meta, expected, at in self._inputs}
        cancellation.check()
        started = time.perf_counter_ns()
        arrays = _execute(self._session, self._names, feeds, cancellation)
        run_us = (time.perf_counter_ns() - started) // 1000
        said = self._place(base + HALF_LANE, arrays)
        if bound is not None or self._said not in {b"", said}:  # they are not always alike
            self._binds, self._bound = False, {}
        elif self._said and self._binds:
            self._bound[lane] = self._bind(feeds, base + HALF_LANE, arrays)._iobinding, said  # noqa: SLF001
        self._said = said
        return run_us, said

    def _ran(self, binding: Any, cancellation: Cancellation) -> bool:
        """False if it failed: another run without the binding says why, or does not fail."""
        try:
            self._run_bound(binding, cancellation.options)
        except Exception:  # noqa: BLE001 - ONNX Runtime has many
            cancellation.check()
            return False
        return True

    def _place(self, base: int, arrays: Sequence[Any]) -> bytes:
        """Lays the outputs into the lane, and describes them."""
        results = [_result(self._session, name, array) for name, array in zip(self._names, arrays, strict=True)]
        offsets, end = offsets_of([facts[3] for facts, _ in results])
        if sum(facts[3] for facts, _ in results) > MAX_BODY_BYTES:
            raise TooLarge(
                f"expected outputs of at most {MAX_BODY_BYTES} bytes in all, got {end}; ask for fewer at once"
            )
        try:
            text = outputs_text(tuple(facts for facts, _ in results))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ExecutionFailed(
                f"outputs {[name[:_NAME_LENGTH] for name in self._names]}: expected shapes within bounds: {reason}"
            ) from error
        for offset, (facts, data) in zip(offsets, results, strict=True):
            self._shared[base + offset : base + offset + facts[3]] = data
        return text

    def _bind(self, feeds: Mapping[str, NDArray[Any]], base: int, arrays: Sequence[NDArray[Any]]) -> ort.IOBinding:
        """The same inputs, and outputs like these, where they lie in the lane."""
        binding = self._session.session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        offsets, _ = offsets_of([array.nbytes for array in arrays])
        for name, array, at in zip(self._names, arrays, offsets, strict=True):
            place = np.frombuffer(self._shared, array.dtype, array.size, base + at).reshape(array.shape)
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(place))
        return binding


def _check_names(session: Session, call: Call) -> None:
    names = [meta.name for meta in call.inputs]
    if len(names) != len(session.inputs) or session.inputs.keys() != set(names):
        raise InvalidTensor(f"expected the tensors {sorted(session.inputs)}, each once, got {sorted(names)}")


def _array(meta: TensorMeta, expected: Datatype, shared: mmap.mmap, offset: int) -> NDArray[Any]:
    """The tensor where it lies, or the texts of one."""
    if meta.datatype is not expected:
        raise InvalidTensor(f"tensor {meta.name!r}: expected datatype {expected}, got {meta.datatype}")
    if meta.datatype is Datatype.BYTES:
        return _strings(meta, shared[offset : offset + meta.size])
    dtype = DTYPES[meta.datatype]
    return np.frombuffer(shared, dtype, meta.size // dtype.itemsize, offset).reshape(meta.shape)


def _strings(meta: TensorMeta, data: bytes) -> NDArray[Any]:
    items = split_bytes(Tensor(name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data))
    try:
        texts = [item.decode() for item in items]
    except UnicodeDecodeError as error:
        raise InvalidTensor(f"tensor {meta.name!r}: expected strings in UTF-8: {error}") from error
    return np.array(texts, dtype=object).reshape(meta.shape)


def _wanted(session: Session, names: Sequence[str]) -> list[str]:
    unknown = set(names) - session.outputs.keys()
    if unknown:
        raise InvalidModel(f"expected outputs among {sorted(session.outputs)}, was asked for {sorted(unknown)}")
    return list(names or session.outputs)


def _execute(
    session: Session, names: list[str], feeds: Mapping[str, NDArray[Any]], cancellation: Cancellation
) -> list[Any]:
    try:
        return list(session.session.run(names, feeds, cancellation.options))
    except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        raise InvalidTensor(f"expected tensors that the model takes, got: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        cancellation.check()
        raise ExecutionFailed(f"expected the model to run on these tensors, got: {error}") from error


def _result(session: Session, name: str, value: Any) -> tuple[Facts, Any]:
    if not isinstance(value, np.ndarray):
        raise ExecutionFailed(f"output {name!r}: expected a tensor, got {type(value).__name__}")
    datatype, shape = session.outputs[name], session.shapes[name]
    if not fits(shape, value.shape):  # ONNX Runtime gives it all the same, and the orchestrator would blame the node
        raise ExecutionFailed(
            f"output {name[:_NAME_LENGTH]!r}: expected shape {list(shape)} (-1 is any), as the model says, got "
            f"{list(value.shape)}; correct the shape of its output"
        )
    if datatype is Datatype.BYTES:
        data: Any = join_bytes(str(item).encode() for item in value.flat)
    else:
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    return (name, datatype, value.shape, len(data)), data
