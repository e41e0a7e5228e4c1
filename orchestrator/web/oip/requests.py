"""From the bytes of a request for an inference to what is asked of a node.

The protocol: https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors: the body is
JSON of `Inference-Header-Content-Length` bytes, then the data of each input that has a `binary_data_size`, in their
order. Tensors are views of the body; nothing is copied.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from orchestrator.core.online import OnlineCall
from orchestrator.web.oip.served import Served
from tandem.protocol.errors import InvalidRequest, InvalidTensor
from tandem.protocol.online import TensorLayout
from tandem.protocol.tensors import (
    MAX_ELEMENTS,
    MAX_RANK,
    Datatype,
    Tensor,
    TensorSpec,
    check_tensor,
    element_size,
    elements,
    tensor_of,
)

MAX_ID = 1024
"""Characters."""
ORDINARY_PRIORITY = 128
"""Of the protocol's priorities, which begin at 1 for what goes first."""
MAX_PRIORITY = 255

_MICROSECONDS = 10**6
_MAX_TIMEOUT_US = 3600 * _MICROSECONDS
_SHOWN = 100
_REMEMBERED = 1024
_REMEMBERED_BYTES = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which `json` takes and no answer could give back."""
_NONE: Mapping[str, Any] = {}


class Wanted(NamedTuple):
    """How the answer is to be written."""

    id: str | None
    outputs: tuple[str, ...]
    binary: tuple[bool, ...]
    """Of each output, whether its data come as bytes behind the JSON."""


class _Form(NamedTuple):
    """What the JSON of a request says."""

    inputs: tuple[Tensor | TensorLayout, ...]
    """Those without data have them behind the JSON."""
    outputs: tuple[str, ...]
    wanted: Wanted
    priority: int
    timeout: float | None
    hedge: bool


def parse_request(served: Served, owner: str, body: memoryview, header_length: int | None) -> tuple[OnlineCall, Wanted]:
    """Raises InvalidRequest, or InvalidTensor naming the tensor, what was expected and what came.

    The JSON of a client's requests is mostly the same; if it is short, what it says is remembered.
    """
    if header_length is None:
        header_length = len(body)
    if header_length > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: expected at most the body's {len(body)} bytes, got {header_length}"
        )
    text = body[:header_length]
    form = _remembered(served, text.tobytes()) if header_length <= _REMEMBERED_BYTES else _form(served, text)
    inputs = _inputs(form, body[header_length:])
    return OnlineCall(owner, served.info, inputs, form.outputs, form.priority, form.timeout, form.hedge), form.wanted


@lru_cache(_REMEMBERED)
def _remembered(served: Served, text: bytes) -> _Form:
    return _form(served, text)


def _form(served: Served, text: bytes | memoryview) -> _Form:
    request = _object(_json(text), "the request")
    parameters = _parameters(request, "the request")
    if parameters.get("sequence_id"):
        raise InvalidRequest("parameters.sequence_id: expected none, since models keep no state between requests")
    inputs = _described(served, request)
    wanted = _wanted(served, request, parameters)
    outputs = wanted.outputs if "outputs" in request else ()
    hedge = _boolean(parameters, "hedge", otherwise=False)
    return _Form(inputs, outputs, wanted, _priority(parameters), _timeout(parameters), hedge)


def _inputs(form: _Form, binary: memoryview) -> tuple[Tensor, ...]:
    tensors, offset = [], 0
    for each in form.inputs:
        if isinstance(each, Tensor):
            tensors.append(each)
            continue
        name, datatype, shape, size = each
        data = binary[offset : offset + size]
        if len(data) != size:
            raise InvalidTensor(
                f"tensor {name!r}: expected {size} bytes in the body, as its binary_data_size says, got {len(data)}"
            )
        tensor = Tensor(name, datatype, shape, data)
        if datatype is Datatype.BYTES:
            check_tensor(tensor)
        tensors.append(tensor)
        offset += size
    if offset != len(binary):
        raise InvalidRequest(
            f"expected {offset} bytes after the JSON, as the inputs' binary_data_size add up to, got {len(binary)}"
        )
    return tuple(tensors)


def _json(text: bytes | memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raw = bytes(text)
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise InvalidRequest(f"expected a request as JSON: {error}") from error
    try:
        return json.loads(raw)  # slower, but it knows NaN and infinities
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"expected a request as JSON: {error}") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidRequest(f"{what}: expected an object, got {_shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if type(value) is not list:
        raise InvalidRequest(f"{what}: expected a list, got {_shown(value)}")
    return value


def _parameters(of: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    value = of.get("parameters")
    return _NONE if value is None else _object(value, f"parameters of {what}")


def _described(served: Served, request: Mapping[str, Any]) -> tuple[Tensor | TensorLayout, ...]:
    inputs: list[Tensor | TensorLayout] = []
    missing = dict(served.inputs)
    for each in _list(request.get("inputs"), "inputs"):
        described = _object(each, "an input")
        name = described.get("name")
        spec = missing.pop(name, None) if type(name) is str else None
        if spec is None:
            raise _unexpected(served, name)
        shape = _shape(spec, described)
        size = _parameters_of_input(described, spec.name)
        if size is None:
            inputs.append(tensor_of(spec.name, spec.datatype, shape, _data(spec, described)))
        else:
            inputs.append(_layout(spec, shape, described, size))
    if missing:
        raise InvalidTensor(f"expected the inputs {sorted(served.inputs)}, got none of the name {min(missing)!r}")
    return tuple(inputs)


def _unexpected(served: Served, name: Any) -> InvalidTensor:
    if type(name) is str and name in served.inputs:
        return InvalidTensor(f"tensor {name!r}: expected it once, got it again")
    return InvalidTensor(
        f"expected inputs out of {sorted(served.inputs)}, got one of the name {_shown(name)}; "
        f"see /v2/models/{served.info.name}"
    )


def _shape(spec: TensorSpec, described: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape, if it fits the model; and it names the datatype that the model takes."""
    datatype = described.get("datatype")
    if datatype != spec.datatype.value:
        raise InvalidTensor(f"tensor {spec.name!r}: expected datatype {spec.datatype}, got {_shown(datatype)}")
    shape = described.get("shape")
    if type(shape) is not list or len(shape) > MAX_RANK:
        raise InvalidTensor(f"tensor {spec.name!r}: expected a shape of at most {MAX_RANK} sizes, got {_shown(shape)}")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise InvalidTensor(f"tensor {spec.name!r}: expected sizes of 0 or more in the shape, got {_shown(shape)}")
        count *= size or 1
    if count >= MAX_ELEMENTS:
        raise InvalidTensor(
            f"tensor {spec.name!r}: expected fewer than {MAX_ELEMENTS} elements, got the shape {_shown(shape)}"
        )
    if len(shape) != len(spec.shape) or any(size not in {-1, got} for size, got in zip(spec.shape, shape, strict=True)):
        raise InvalidTensor(f"tensor {spec.name!r}: expected shape {list(spec.shape)} (-1 is any), got {_shown(shape)}")
    return tuple(shape)


def _parameters_of_input(described: Mapping[str, Any], name: str) -> int | None:
    """The bytes of the input behind the JSON; None if its data are in it."""
    parameters = described.get("parameters")
    if parameters is None:
        return None
    parameters = _object(parameters, f"parameters of tensor {name!r}")
    if "shared_memory_region" in parameters:
        raise _no_shared_memory(name)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidTensor(f"tensor {name!r}: expected a binary_data_size of 0 bytes or more, got {_shown(size)}")
    return size


def _layout(spec: TensorSpec, shape: tuple[int, ...], described: Mapping[str, Any], size: int) -> TensorLayout:
    if "data" in described:
        raise InvalidTensor(f"tensor {spec.name!r}: expected data or a binary_data_size, got both")
    each = element_size(spec.datatype)
    if each is not None and size != each * elements(shape):
        raise InvalidTensor(
            f"tensor {spec.name!r}: expected {each * elements(shape)} bytes for {spec.datatype} {list(shape)}, "
            f"got a binary_data_size of {size}"
        )
    return TensorLayout(spec.name, spec.datatype, shape, size)


def _data(spec: TensorSpec, described: Mapping[str, Any]) -> list[Any]:
    data = described.get("data")
    if type(data) is not list:
        raise InvalidTensor(
            f"tensor {spec.name!r}: expected data as a list, or a binary_data_size in its parameters, "
            f"got {_shown(data)}"
        )
    return data


def _wanted(served: Served, request: Mapping[str, Any], parameters: Mapping[str, Any]) -> Wanted:
    ident = _id(request.get("id"))
    by_default = _boolean(parameters, "binary_data_output", otherwise=False)
    if "outputs" not in request:
        return Wanted(ident, served.output_names, (by_default,) * len(served.output_names))
    wanted: dict[str, bool] = {}
    for each in _list(request["outputs"], "outputs"):
        described = _object(each, "an output")
        name = described.get("name")
        if type(name) is not str or name not in served.outputs or name in wanted:
            raise InvalidTensor(f"expected outputs out of {sorted(served.outputs)}, each once, got {_shown(name)}")
        wanted[name] = _is_binary(name, _parameters(described, f"tensor {name!r}"), otherwise=by_default)
    if not wanted:
        raise InvalidRequest("outputs: expected at least one, or none of this field for all of them, got []")
    return Wanted(ident, tuple(wanted), tuple(wanted.values()))


def _id(value: Any) -> str | None:
    if value is not None and (type(value) is not str or len(value) > MAX_ID or _SURROGATE.search(value)):
        raise InvalidRequest(f"id: expected a string of at most {MAX_ID} characters of Unicode, got {_shown(value)}")
    identified: str | None = value
    return identified


def _is_binary(name: str, parameters: Mapping[str, Any], *, otherwise: bool) -> bool:
    if "shared_memory_region" in parameters:
        raise _no_shared_memory(name)
    if parameters.get("classification"):
        raise InvalidRequest(f"tensor {name!r}: expected no classification, which is not done here; sort its values")
    return _boolean(parameters, "binary_data", otherwise=otherwise)


def _no_shared_memory(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"tensor {name!r}: expected its data in the request, since nodes share no memory with clients; "
        "got a shared_memory_region"
    )


def _boolean(parameters: Mapping[str, Any], name: str, *, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if type(value) is not bool:
        raise InvalidRequest(f"parameters.{name}: expected true or false, got {_shown(value)}")
    return value


def _priority(parameters: Mapping[str, Any]) -> int:
    value = parameters.get("priority", 0)
    if type(value) is not int or not 0 <= value <= MAX_PRIORITY:
        raise InvalidRequest(
            f"parameters.priority: expected 1 (goes first) to {MAX_PRIORITY}, or 0 for the ordinary, "
            f"got {_shown(value)}"
        )
    return ORDINARY_PRIORITY - value if value else 0


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value <= _MAX_TIMEOUT_US:
        raise InvalidRequest(
            f"parameters.timeout: expected microseconds, at most {_MAX_TIMEOUT_US}, or 0 for none, got {_shown(value)}"
        )
    return value / _MICROSECONDS if value else None


def _shown(value: Any) -> str:
    """A value of the client's in a message: short, whatever it is."""
    if value is None:
        return "none"
    if isinstance(value, list):
        items = [repr(each) if not isinstance(each, (list, dict)) else "…" for each in value[:MAX_RANK]]
        text = f"[{', '.join(items)}{', …' if len(value) > MAX_RANK else ''}]"
    else:
        text = "an object" if isinstance(value, dict) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
