"""Main of the child process that loads a model with ONNX Runtime on one core and runs it a few times.

The file is read as a message first, since some of what a hostile model asks for would be done while it is loaded.
"""

import ctypes
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tandem.inspection.answer import answer
from tandem.inspection.model_rules import TENSOR_TYPES, check_model
from tandem.protocol.errors import InvalidModel

_ERRORS_ONLY = 4
_TIMED_RUNS = 9
_TIMED_SECONDS = 2.0
_MICRO = 10**6
_MIB = 2**20
_PAGE = 4096
_REASON_LENGTH = 300
_MAX_INPUT_ELEMENTS = 2**28


def inspect(path: Path) -> dict[str, Any]:
    """The fields of a ModelReport; raises InvalidModel."""
    check_model(path.read_bytes())
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    session = _load(path)
    inputs, outputs = [_spec(node) for node in session.get_inputs()], [_spec(node) for node in session.get_outputs()]
    if not inputs:
        raise InvalidModel("expected a model with at least one input, got none")
    cost = _cost_us(session)
    memory = max(_resident() - before, path.stat().st_size) // _MIB + 1
    return {"inputs": inputs, "outputs": outputs, "cost_us": cost, "memory": memory}


def _load(path: Path) -> ort.InferenceSession:
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of ONNX Runtime's errors is a class of its own below Exception
        raise InvalidModel(f"expected a model that ONNX Runtime can load, got: {_reason(error, path)}") from error


def _spec(node: ort.NodeArg) -> dict[str, Any]:
    if node.type not in TENSOR_TYPES:
        raise InvalidModel(f"expected {', '.join(TENSOR_TYPES)}, got {node.type} for {node.name!r}")
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return {"name": node.name, "datatype": TENSOR_TYPES[node.type][0], "shape": shape}


def _zeros(node: ort.NodeArg) -> np.ndarray[Any, Any]:
    shape = [size if isinstance(size, int) else 1 for size in node.shape]
    if np.prod(shape, dtype=object) > _MAX_INPUT_ELEMENTS:
        raise InvalidModel(f"expected inputs of at most {_MAX_INPUT_ELEMENTS} elements, got {shape} for {node.name!r}")
    datatype, dtype = TENSOR_TYPES[node.type]
    return np.full(shape, "" if datatype == "BYTES" else 0, dtype)


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
        raise InvalidModel(f"expected a model that runs with every open dimension at 1, got: {reason}") from error
    return max(1, round(statistics.median(took) * _MICRO))


def _reason(error: Exception, path: Path | None = None) -> str:
    text = str(error).replace(str(path), "the model") if path else str(error)
    return " ".join(text.split())[:_REASON_LENGTH]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    answer(inspect)
