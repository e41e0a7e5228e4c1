"""onnx's own suite of operators: each case a model, inputs, and what is to come out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from tandem.inspection.model_rules import TENSOR_TYPES
from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import Datatype, TensorSpec, join_bytes, split_bytes
from tandem.protocol.tensors import Tensor as RawTensor

DTYPES = dict(TENSOR_TYPES.values())


@dataclass(frozen=True)
class Case:
    """A case that bare ONNX Runtime passes on this machine."""

    name: str
    model: bytes
    session: ort.InferenceSession
    sets: Sequence[tuple[Mapping[str, Any], Sequence[Any]]]
    """Inputs by name, and what ONNX Runtime gives for them."""
    rtol: float
    atol: float

    @property
    def left_out(self) -> str:
        """Why it cannot be asked for over the protocol; empty: it can."""
        kinds = {each.type for each in [*self.session.get_inputs(), *self.session.get_outputs()]}
        unknown = sorted(kinds - TENSOR_TYPES.keys())
        return f"the protocol has no {unknown[0]}" if unknown else ""

    def info(self, name: str) -> ModelInfo:
        return ModelInfo(
            name=name,
            version="1",
            artifact=f"sha256:{hashlib.sha256(self.model).hexdigest()}",
            size=len(self.model),
            inputs=tuple(map(_spec, self.session.get_inputs())),
            outputs=tuple(map(_spec, self.session.get_outputs())),
            cost_us=100,
            memory=1,
        )

    def check(self, expected: Sequence[Any], got: Sequence[Any]) -> None:
        Runner.assert_similar_outputs(expected, got, rtol=self.rtol, atol=self.atol)


def passing(chosen: int, of: int) -> Iterator[Case]:
    """Those that bare ONNX Runtime passes; one part, by the hash of their names, out of so many."""
    with np.errstate(all="ignore"):
        cases = load_model_tests(kind="node")
    for case in cases:
        if hashlib.sha256(case.name.encode()).digest()[0] % of == chosen:
            try:
                yield _passed(case)
            except Exception:  # noqa: BLE001, S112 - whatever keeps bare ONNX Runtime from it
                continue


def _passed(case: Any) -> Case:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = case.model.SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    sets = []
    for inputs, expected in case.data_sets:
        values = inputs if isinstance(inputs, list) else [inputs[name] for name in names]
        feeds = dict(zip(names, map(_plain, values), strict=False))
        got = session.run(None, feeds)
        Runner.assert_similar_outputs(list(map(_plain, expected)), got, rtol=case.rtol, atol=case.atol)
        sets.append((feeds, got))
    return Case(case.name, model, session, sets, case.rtol, case.atol)


def _plain(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, (list, dict)) or value is None else np.asarray(value)


def _spec(argument: Any) -> TensorSpec:
    shape = [size if isinstance(size, int) else -1 for size in argument.shape]
    return TensorSpec(name=argument.name, datatype=Datatype(TENSOR_TYPES[argument.type][0]), shape=tuple(shape))


def raw_of(datatype: str, array: NDArray[Any]) -> bytes:
    if datatype == "BYTES":
        return join_bytes(str(item).encode() for item in array.flat)
    return np.ascontiguousarray(array).astype(DTYPES[datatype]).tobytes()


def array_of(datatype: str, shape: Sequence[int], raw: bytes) -> NDArray[Any]:
    if datatype == "BYTES":
        items = split_bytes(RawTensor("x", Datatype.BYTES, tuple(shape), raw))
        return np.array([bytes(item).decode() for item in items], dtype=object).reshape(shape)
    return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)
