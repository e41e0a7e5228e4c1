"""What a model's files must be before ONNX Runtime sees them: what hostile ones ask for may be done at load."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto

from tandem.protocol.errors import InvalidModel
from tandem.protocol.models import check_file_name

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime itself brings; any other would come from a library of the submitter's."""

TENSOR_TYPES: Mapping[str, tuple[str, str]] = {
    "tensor(bool)": ("BOOL", "?"),
    "tensor(uint8)": ("UINT8", "u1"),
    "tensor(uint16)": ("UINT16", "<u2"),
    "tensor(uint32)": ("UINT32", "<u4"),
    "tensor(uint64)": ("UINT64", "<u8"),
    "tensor(int8)": ("INT8", "i1"),
    "tensor(int16)": ("INT16", "<i2"),
    "tensor(int32)": ("INT32", "<i4"),
    "tensor(int64)": ("INT64", "<i8"),
    "tensor(float16)": ("FP16", "<f2"),
    "tensor(float)": ("FP32", "<f4"),
    "tensor(double)": ("FP64", "<f8"),
    "tensor(string)": ("BYTES", "O"),
}
"""What ONNX Runtime calls a type: its name in the Open Inference Protocol, and in numpy, little-endian."""

MAX_FILE_BYTES = 2**31 - 1
"""Of the ONNX file, by protobuf's own bound."""
MAX_NODES = 250_000
"""With every function put in where it is called, as ONNX Runtime does at load."""
MAX_NAMED = 5
"""Names in one refusal."""

_DICE = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Sampling"}
)
"""Operators that give something else each time, with a seed too."""
_DROPOUT, _TRAINING_MODE = "Dropout", 2
"""It rolls dice if this input says so."""
_COMPILED = "EPContext"
"""An operator that holds a provider's compiled binary, or the path of one."""
_NAME_LENGTH = 200
_BITS: Mapping[int, int] = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ), 8),
    **dict.fromkeys((TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ), 8),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1), 4),
    TensorProto.COMPLEX128: 128,
}
"""An element of external data."""

_KEYS = frozenset({"location", "offset", "length", "checksum"})

Function = tuple[str, str, str]
"""Domain, name and overload."""


class Checked(NamedTuple):
    """What a model says of itself."""

    opset: int
    """That it is written for."""
    dice: tuple[str, ...]
    """Operators by which two runs of the same inputs may differ, ascending."""


def check_model(data: bytes, files: Mapping[str, int] | None = None) -> Checked:
    """`files` are those of external data, with their sizes in bytes.

    Raises InvalidModel unless it is an ONNX model that asks for these files alone and only for known operators.
    """
    model = parse(data)
    if not model.graph.node:
        raise InvalidModel("expected an ONNX model with operators, got an empty graph; export the model to ONNX")
    known = DOMAINS | {function.domain for function in model.functions}
    asked: set[str] = set()
    dice: set[str] = set()
    for message in _walk(model):
        match message:
            case TensorProto() if _is_external(message):
                asked.add(_check_external(message, files or {}))
            case onnx.NodeProto() if message.domain not in known or message.op_type == _COMPILED:
                operator = f"{message.domain or 'ai.onnx'}.{message.op_type}"
                raise InvalidModel(
                    f"expected operators of ONNX and ONNX Runtime alone, got {operator[:_NAME_LENGTH]}; "
                    "export the model without custom or compiled operators"
                )
            case onnx.NodeProto() if _rolls_dice(message):
                dice.add(message.op_type)
            case _:
                pass
    unasked = sorted(set(files or {}) - asked)
    if unasked:
        raise InvalidModel(f"expected only files that the model refers to, got {_some(unasked)} too; leave them out")
    _check_inputs(model.graph)
    _check_size(model)
    opset = max((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), default=0)
    return Checked(opset, tuple(sorted(dice)))


def shape_of(sizes: Iterable[object]) -> tuple[int, ...]:
    """What ONNX Runtime says of an input or output, as the protocol does: -1 where a size is open.

    Without a number of dimensions it says the same as for a scalar.
    """
    return tuple(size if isinstance(size, int) else -1 for size in sizes)


def _check_inputs(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for each in graph.input:
        tensor = each.type.WhichOneof("value") == "tensor_type"
        if tensor and not each.type.tensor_type.HasField("shape") and each.name not in constants:
            raise InvalidModel(
                f"expected a number of dimensions for the input {each.name[:_NAME_LENGTH]!r}, got none; "
                "give it a shape, with names for sizes that are open"
            )


def _rolls_dice(node: onnx.NodeProto) -> bool:
    training = node.op_type == _DROPOUT and any(node.input[_TRAINING_MODE:])
    return training or node.op_type in _DICE


def parse(data: bytes) -> onnx.ModelProto:
    """Raises InvalidModel."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidModel(
            f"expected an ONNX file of at most {MAX_FILE_BYTES} bytes, got {len(data)}; "
            "save its weights as external data"
        )
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise InvalidModel(
            "expected an ONNX model, whole and not nested beyond 100 levels, got a file that is none; "
            "export the model to ONNX, and compare the file's size with what was uploaded"
        ) from error
    return model


def external_names(model: onnx.ModelProto) -> list[str]:
    """Of the files of external data that the model refers to, ascending. Raises InvalidModel for what is no name."""
    tensors = (message for message in _walk(model) if isinstance(message, TensorProto) and _is_external(message))
    return sorted({_location(tensor, _entries(tensor)) for tensor in tensors})


def _is_external(tensor: TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location == TensorProto.EXTERNAL


def _check_external(tensor: TensorProto, files: Mapping[str, int]) -> str:
    """The file that it is in."""
    entries = _entries(tensor)
    name = _location(tensor, entries)
    if name not in files:
        raise InvalidModel(
            f"expected every file of external data beside the model, and {name!r} is missing; "
            "upload it too, under that name, or save the model as one file"
        )
    wanted = _bytes_of(tensor)
    offset = _number(tensor, entries, "offset", 0)
    length = _number(tensor, entries, "length", wanted)
    if length != wanted or offset + length > files[name]:
        raise InvalidModel(
            f"expected {wanted} bytes for {_name(tensor)} within the {files[name]} of {name!r}, "
            f"got {length} at {offset}; save the model and its external data anew, and upload both"
        )
    return name


def _entries(tensor: TensorProto) -> dict[str, str]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= _KEYS:
        raise InvalidModel(
            f"expected {', '.join(sorted(_KEYS))} of external data, each at most once, got other keys for "
            f"{_name(tensor)}; save the model anew"
        )
    return entries


def _location(tensor: TensorProto, entries: Mapping[str, str]) -> str:
    try:
        return check_file_name(entries.get("location", ""))
    except ValueError as error:
        raise InvalidModel(f"external data of {_name(tensor)}: {error}; save them beside the model") from error


def _number(tensor: TensorProto, entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key, "") or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(2**63))):
        raise InvalidModel(
            f"expected a number as {key} of external data of {_name(tensor)}, got {text[:_NAME_LENGTH]!r}"
        )
    return int(text)


def _bytes_of(tensor: TensorProto) -> int:
    bits = _BITS.get(tensor.data_type)
    if bits is None or any(size < 0 for size in tensor.dims):
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else "?"
        raise InvalidModel(
            f"expected numbers of a known size as external data, got {kind} {list(tensor.dims)} for {_name(tensor)}; "
            "keep it inside the model"
        )
    elements: int = math.prod(tensor.dims)
    return -(-elements * bits // 8)


def _name(tensor: TensorProto) -> str:
    return repr(tensor.name[:_NAME_LENGTH]) if tensor.name else "an unnamed tensor"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(repr(name[:_NAME_LENGTH]) for name in names[:MAX_NAMED]) + more


@dataclass(slots=True)
class _Body:
    """Of a graph or function, with all that is nested in it."""

    nodes: int = 0
    calls: Counter[Function] = field(default_factory=Counter)


def _check_size(model: onnx.ModelProto) -> None:
    """Functions that call each other make a large model of a small file, or one without an end."""
    named = {(each.domain, each.name, each.overload): each for each in model.functions}
    bodies = {key: _body(function.node, named.keys()) for key, function in named.items()}
    try:
        order = list(TopologicalSorter({key: body.calls for key, body in bodies.items()}).static_order())
    except CycleError as error:
        name = str(error.args[1][0][1])[:_NAME_LENGTH]
        raise InvalidModel(
            f"expected functions that end, got {name!r}, which calls itself; export it inlined"
        ) from error
    sizes: dict[Function, int] = {}
    for key in order:
        sizes[key] = _expanded(bodies[key], sizes)
    total = _expanded(_body(model.graph.node, named.keys()), sizes)
    if total > MAX_NODES:
        raise InvalidModel(f"expected a model of at most {MAX_NODES} operators, got {total}; simplify or split it")


def _expanded(body: _Body, sizes: Mapping[Function, int]) -> int:
    return body.nodes + sum(sizes[key] * count for key, count in body.calls.items())


def _body(nodes: Iterable[onnx.NodeProto], functions: Iterable[Function]) -> _Body:
    body = _Body()
    for each in nodes:
        for message in _walk(each):
            if isinstance(message, onnx.NodeProto):
                body.nodes += 1
                key = (message.domain, message.op_type, message.overload)
                if key in functions:
                    body.calls[key] += 1
    return body


def _walk(message: Message) -> Iterator[Message]:
    """The message and all within it: nodes and tensors sit in subgraphs, attributes and functions too."""
    stack = [message]
    while stack:
        message = stack.pop()
        yield message
        for field_, value in message.ListFields():
            if field_.message_type is not None:
                stack += [value] if isinstance(value, Message) else value
