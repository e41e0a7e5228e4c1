"""Main of the child process that loads a model with ONNX Runtime on one core and runs it a few times.

The file is read as a message first, since some of what a hostile model asks for would be done while it is loaded.
"""

import ctypes
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message

from tandem.inspection.answer import Refused, answer
from tandem.protocol.tensors import Datatype

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime itself brings; any other needs a library that is not loaded."""

DATATYPES: dict[str, tuple[Datatype, Any]] = {
    "tensor(bool)": (Datatype.BOOL, np.bool_),
    "tensor(uint8)": (Datatype.UINT8, np.uint8),
    "tensor(uint16)": (Datatype.UINT16, np.uint16),
    "tensor(uint32)": (Datatype.UINT32, np.uint32),
    "tensor(uint64)": (Datatype.UINT64, np.uint64),
    "tensor(int8)": (Datatype.INT8, np.int8),
    "tensor(int16)": (Datatype.INT16, np.int16),
    "tensor(int32)": (Datatype.INT32, np.int32),
    "tensor(int64)": (Datatype.INT64, np.int64),
    "tensor(float16)": (Datatype.FP16, np.float16),
    "tensor(float)": (Datatype.FP32, np.float32),
    "tensor(double)": (Datatype.FP64, np.float64),
    "tensor(string)": (Datatype.BYTES, np.object_),
}

_EPCONTEXT = "EPContext"
_ERRORS_ONLY = 4
_TIMED_RUNS = 9
_TIMED_SECONDS = 2.0
_MICRO = 10**6
_MIB = 2**20
_PAGE = 4096
_REASON_LENGTH = 300
_MAX_INPUT_ELEMENTS = 2**28


def inspect(path: Path) -> dict[str, Any]:
    """The fields of a ModelReport; raises Refused."""
    check_message(path)
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    session = _load(path)
    inputs, outputs = [_spec(node) for node in session.get_inputs()], [_spec(node) for node in session.get_outputs()]
    if not inputs:
        raise Refused("expected a model with at least one input, got none")
    cost = _cost_us(session)
    memory = max(_resident() - before, path.stat().st_size) // _MIB + 1
    return {"inputs": inputs, "outputs": outputs, "cost_us": cost, "memory": memory}


def check_message(path: Path) -> None:
    """Raises Refused unless the file is an ONNX model in itself that asks only for known operators."""
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise Refused("expected an ONNX model, got a file that is none; export the model to ONNX") from error
    if not model.graph.node:
        raise Refused("expected an ONNX model with operators, got an empty graph; export the model to ONNX")
    known = DOMAINS | {function.domain for function in model.functions}
    for message in _walk(model):
        match message:
            case onnx.TensorProto() if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
                raise Refused("expected all weights inside the file, got external data; save the model as one file")
            case onnx.NodeProto() if message.domain not in known or message.op_type == _EPCONTEXT:
                operator = f"{message.domain or 'ai.onnx'}.{message.op_type}"
                raise Refused(f"expected operators of ONNX and ONNX Runtime, got {operator[:_REASON_LENGTH]}")
            case _:
                pass


def _walk(message: Message) -> Iterator[Message]:
    """The message and all within it: nodes and tensors sit in subgraphs, attributes and functions too."""
    stack = [message]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack += [value] if isinstance(value, Message) else value


def _load(path: Path) -> ort.InferenceSession:
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of ONNX Runtime's errors is a class of its own below Exception
        raise Refused(f"expected a model that ONNX Runtime can load, got: {_reason(error, path)}") from error


def _spec(node: ort.NodeArg) -> dict[str, Any]:
    if node.type not in DATATYPES:
        raise Refused(f"expected tensors of {', '.join(Datatype)}, got {node.type} for {node.name!r}")
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return {"name": node.name, "datatype": DATATYPES[node.type][0], "shape": shape}


def _zeros(node: ort.NodeArg) -> np.ndarray[Any, Any]:
    shape = [size if isinstance(size, int) else 1 for size in node.shape]
    if np.prod(shape, dtype=object) > _MAX_INPUT_ELEMENTS:
        raise Refused(f"expected inputs of at most {_MAX_INPUT_ELEMENTS} elements, got {shape} for {node.name!r}")
    datatype, dtype = DATATYPES[node.type]
    return np.full(shape, "" if datatype is Datatype.BYTES else 0, dtype)


def _cost_us(session: ort.InferenceSession) -> int:
    """The median of a few runs, after one to warm up; at most about two seconds unless one run takes longer."""
    feeds = {node.name: _zeros(node) for node in session.get_inputs()}
    took: list[float] = []
    try:
        session.run(None, feeds)
        while len(took) < _TIMED_RUNS and sum(took) < _TIMED_SECONDS:
            start = time.perf_counter()
            session.run(None, feeds)
            took.append(time.perf_counter() - start)
    except Exception as error:  # as above
        reason = _reason(error)
        raise Refused(f"expected a model that runs with every open dimension at 1, got: {reason}") from error
    return max(1, round(statistics.median(took) * _MICRO))


def _reason(error: Exception, path: Path | None = None) -> str:
    text = str(error).replace(str(path), "the model") if path else str(error)
    return " ".join(text.split())[:_REASON_LENGTH]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    answer(inspect)
