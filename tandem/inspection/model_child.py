"""Main of the child process that loads a model with ONNX Runtime on one core and runs it a few times.

The file is read as a message first, since some of what a hostile model asks for would be done while it is loaded.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tandem.inspection import batching, repeating
from tandem.inspection.answer import answer
from tandem.inspection.model_rules import TENSOR_TYPES, Checked, check_model, shape_of
from tandem.inspection.trial import Trial, sizes_beside
from tandem.protocol.errors import InvalidModel, InvalidTensor
from tandem.protocol.models import warm_up_tensors
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec, split_bytes

_ERRORS_ONLY = 4
_TIMED_RUNS = 9
_TIMED_SECONDS = 2.0
_LONG_SECONDS = 5.0
"""A first run of so long is the measure of itself, and leaves no time to try batches."""
_MICRO = 10**6
_MIB = 2**20
_PAGE = 4096
_REASON_LENGTH = 300
_LOCALE = "give StringNormalizer a `locale` that machines have, such as C.UTF-8, or let the operator install it"
_MAX_INPUT_ELEMENTS = 2**28
_REMEDIES = (
    ("seq(map(", "export it without ZipMap (skl2onnx: zipmap=False)"),
    ("seq(", "give tensors out one by one, or put them together with ConcatFromSequence"),
    ("map(", "export it without ZipMap (skl2onnx: zipmap=False)"),
    ("optional(", "give out the tensor itself"),
    ("sparse_tensor(", "give out a dense tensor"),
    ("tensor(bfloat16)", "put a Cast to or from float32 before it"),
)
"""How to come by without a type, by what its name begins with."""

Array = np.ndarray[Any, Any]


def inspect(path: Path) -> dict[str, Any]:
    """The fields of a ModelReport; raises InvalidModel."""
    trial = Trial.model_validate_json(Path(sys.argv[2]).read_bytes())
    files = sizes_beside(path)
    checked = check_model(path.read_bytes(), files)
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    session = _load(path)
    inputs, outputs = [_spec(node) for node in session.get_inputs()], [_spec(node) for node in session.get_outputs()]
    if not inputs:
        raise InvalidModel(
            "expected a model with at least one input, got none; what takes no input has one answer, so keep that"
        )
    feeds = _feeds(session, inputs, trial)
    cost = _cost(session, feeds[0], given=bool(trial.warm_up))
    memory = max(_resident() - before, path.stat().st_size + sum(files.values())) // _MIB + 1
    for feed in feeds[1:]:
        _run(session, feed, given=True)
    return {
        "inputs": [spec.model_dump() for spec in inputs],
        "outputs": [spec.model_dump() for spec in outputs],
        "opset": checked.opset,
        "cost_us": max(1, round(cost * _MICRO)),
        "measured": [feeds[0][spec.name].shape for spec in inputs] if trial.warm_up else [],
        "memory": memory,
        "unbatchable": _unbatchable(session, (inputs, outputs), feeds[0], cost, trial),
        "unrepeatable": _unrepeatable(session, outputs, feeds[0], cost, checked, trial),
    }


def _load(path: Path) -> ort.InferenceSession:
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ERRORS_ONLY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of ONNX Runtime's errors is a class of its own below Exception
        reason = _reason(error, path)
        remedy = _LOCALE if "locale" in reason else "export it for an opset and with operators of that version"
        raise InvalidModel(
            f"expected a model that ONNX Runtime {ort.__version__} can load, got: {reason}; {remedy}"
        ) from error


def _spec(node: ort.NodeArg) -> TensorSpec:
    if node.type not in TENSOR_TYPES:
        remedy = next((text for start, text in _REMEDIES if node.type.startswith(start)), "cast it to one of these")
        raise InvalidModel(f"expected {', '.join(TENSOR_TYPES)}, got {node.type} for {node.name!r}; {remedy}")
    return TensorSpec(name=node.name, datatype=Datatype(TENSOR_TYPES[node.type][0]), shape=shape_of(node.shape))


def _feeds(session: ort.InferenceSession, inputs: list[TensorSpec], trial: Trial) -> list[dict[str, Array]]:
    """What to run it with: the warm-up inputs that were given, else zeros with every open dimension at 1."""
    types = {node.name: TENSOR_TYPES[node.type][1] for node in session.get_inputs()}
    if not trial.warm_up:
        return [{spec.name: _zeros(spec, types[spec.name]) for spec in inputs}]
    try:
        given = [warm_up_tensors(inputs, each) for each in trial.warm_up]
    except InvalidTensor as error:
        raise InvalidModel(error.detail) from error
    return [{tensor.name: _array(tensor, types[tensor.name]) for tensor in tensors} for tensors in given]


def _zeros(spec: TensorSpec, dtype: str) -> Array:
    shape = [abs(size) for size in spec.shape]
    if np.prod(shape, dtype=object) > _MAX_INPUT_ELEMENTS:
        raise InvalidModel(
            f"expected inputs of at most {_MAX_INPUT_ELEMENTS} elements, got {shape} for {spec.name!r}; "
            "leave dimensions open, or make it smaller"
        )
    return np.full(shape, "" if spec.datatype is Datatype.BYTES else 0, dtype)


def _array(tensor: Tensor, dtype: str) -> Array:
    if tensor.datatype is Datatype.BYTES:
        return np.array([item.decode() for item in split_bytes(tensor)], dtype).reshape(tensor.shape)
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def _run(session: ort.InferenceSession, feed: Mapping[str, Array], *, given: bool) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    try:
        arrays = session.run(None, dict(feed))
    except Exception as error:  # as above
        if given:
            raise InvalidModel(f"expected a model that runs with its warm-up inputs, got: {_reason(error)}") from error
        raise InvalidModel(
            f"expected a model that runs with every open dimension at 1, got: {_reason(error)}; "
            "give inputs that it runs with as settings.warm_up"
        ) from error
    took = time.perf_counter() - start
    _check_outputs(session, arrays)
    return took


def _check_outputs(session: ort.InferenceSession, arrays: Sequence[Array]) -> None:
    """ONNX Runtime says the same of a scalar and of any number of dimensions. Sizes may depend on values."""
    for node, array in zip(session.get_outputs(), arrays, strict=True):
        if len(node.shape) != array.ndim:
            raise InvalidModel(
                f"expected the output {node.name!r} to have the {len(node.shape)} dimensions that the model says, or "
                f"leaves out, got {array.ndim}; give it a shape of so many, with names for sizes that vary"
            )


def _cost(session: ort.InferenceSession, feed: Mapping[str, Array], *, given: bool) -> float:
    """Seconds: the median of a few runs, after one to warm up; at most about two seconds unless one takes longer."""
    first = _run(session, feed, given=given)
    if first > _LONG_SECONDS:
        return first
    took: list[float] = []
    while len(took) < _TIMED_RUNS and sum(took) < _TIMED_SECONDS:
        took.append(_run(session, feed, given=given))
    return statistics.median(took)


def _unbatchable(
    session: ort.InferenceSession,
    specs: tuple[list[TensorSpec], list[TensorSpec]],
    feed: dict[str, Array],
    cost: float,
    trial: Trial,
) -> str | None:
    if cost > _LONG_SECONDS:
        return f"one run takes {cost:.1f} s, so that it was not tried"
    return batching.obstacle(*specs, feed, lambda feeds: session.run(None, dict(feeds)), trial.tolerance)


def _unrepeatable(
    session: ort.InferenceSession,
    outputs: list[TensorSpec],
    feed: dict[str, Array],
    cost: float,
    checked: Checked,
    trial: Trial,
) -> str | None:
    if checked.dice:
        return f"it has operators that give something else each time: {', '.join(checked.dice)}"
    if cost > _LONG_SECONDS:
        return None
    return repeating.obstacle(outputs, feed, lambda feeds: session.run(None, dict(feeds)), trial.tolerance)


def _reason(error: Exception, path: Path | None = None) -> str:
    text = str(error).replace(str(path), "the model").replace(str(path.parent), "") if path else str(error)
    return " ".join(text.split())[:_REASON_LENGTH]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    answer(lambda path: inspect(Path(path)))
