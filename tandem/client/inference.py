"""Tensors as plain lists: shapes and datatypes follow from the model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.protocol.api import BatchResult, InferenceResult, JobView, ModelView
from tandem.protocol.errors import InvalidRequest, InvalidTensor
from tandem.protocol.jobs import InferenceRequest
from tandem.protocol.tensors import Datatype, TensorJson, TensorSpec
from tandem.protocol.webhooks import WebhookTarget

_FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})


@dataclass(frozen=True, slots=True)
class Inference:
    """A model's answer: by output, its values nested like its shape."""

    outputs: Mapping[str, Any]
    job: JobView


def inference_request(
    model: ModelView,
    inputs: Mapping[str, Sequence[Any]],
    *,
    max_price: int | None = None,
    webhook: str | None = None,
) -> InferenceRequest:
    """Raises InvalidTensor for inputs that the model does not have, or whose shape cannot be told."""
    specs = {spec.name: spec for spec in model.inputs}
    if set(inputs) != set(specs):
        raise InvalidTensor(f"expected the inputs {sorted(specs)} of {model.name}, got {sorted(inputs)}")
    tensors = tuple(tensor_json(specs[name], data) for name, data in inputs.items())
    return InferenceRequest(
        kind="inference",
        model=model.name,
        version=model.version,
        inputs=tensors,
        max_price=max_price,
        webhook=WebhookTarget(url=webhook) if webhook else None,
    )


def tensor_json(spec: TensorSpec, data: Sequence[Any]) -> TensorJson:
    """The tensor of nested lists, or of a flat one where the model leaves at most one dimension open."""
    shape = _shape(data)
    if len(shape) != len(spec.shape):
        shape = _fill(spec, shape)
    return TensorJson(name=spec.name, datatype=spec.datatype, shape=shape, data=list(data))


def nested(tensor: TensorJson) -> Any:
    """The values nested like the shape; a tensor without dimensions is its one value."""
    data: Iterable[Any] = tensor.data
    if tensor.datatype in _FLOATS:
        data = map(float, data)  # the API spells NaN and the infinities as strings
    values = list(data)
    for size in reversed(tensor.shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), max(1, size))]
    return values if tensor.shape else values[0]


def answer(job: JobView) -> Inference:
    """The answer of a finished inference; raises what it failed of."""
    if job.error is not None:
        raise job.error.error()
    if not isinstance(job.result, InferenceResult):
        raise InvalidTensor(f"expected a finished inference, got a {job.kind} that is {job.state}")
    return Inference({tensor.name: nested(tensor) for tensor in job.result.outputs}, job)


def batch_result(job: JobView) -> BatchResult:
    """What a finished batch gave; raises what it failed of."""
    if job.error is not None:
        raise job.error.error()
    if not isinstance(job.result, BatchResult):
        raise InvalidRequest(f"expected a finished batch, got a {job.kind} that is {job.state}")
    return job.result


def _shape(data: Any) -> tuple[int, ...]:
    """By the first elements; whether the others are like them is for the orchestrator to check."""
    sizes = []
    while isinstance(data, (list, tuple)):
        sizes.append(len(data))
        data = data[0] if data else None
    return tuple(sizes)


def _fill(spec: TensorSpec, given: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a flat list, which is all that may differ from the model's nesting."""
    count = math.prod(given)
    fixed = math.prod(size for size in spec.shape if size >= 0)
    left, rest = divmod(count, fixed) if fixed else (0, count)
    shape = tuple(left if size < 0 else size for size in spec.shape)
    if len(given) != 1 or spec.shape.count(-1) > 1 or rest or math.prod(shape) != count:
        raise InvalidTensor(
            f"tensor {spec.name!r}: expected lists nested like {list(spec.shape)} (-1 is any), or a flat one of "
            f"a fitting length, got {list(given)}"
        )
    return shape
