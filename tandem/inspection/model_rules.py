"""What a model file must be before ONNX Runtime sees it: what a hostile one asks for may be done while it loads."""

import re
from collections.abc import Iterator, Mapping

import onnx
from google.protobuf.message import DecodeError, Message

from tandem.protocol.errors import InvalidModel

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

_COMPILED = "EPContext"
"""An operator that holds a provider's compiled binary, or the path of one."""
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
_IN_MEMORY = "_ORT_MEM_ADDR_"
"""Part of a location that ONNX Runtime takes for an address in its own memory."""
_DIGITS = re.compile(r"[0-9]{1,18}")
_LISTED = 5
_NAME_LENGTH = 200


def check_model(data: bytes, files: Mapping[str, int] | None = None) -> None:
    """Raises InvalidModel unless it is an ONNX model that asks only for known operators, and for no data but its own.

    `files` are the sizes of its files of external data, by the names that it must have for them.
    """
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise InvalidModel("expected an ONNX model, got a file that is none; export the model to ONNX") from error
    if not model.graph.node:
        raise InvalidModel("expected an ONNX model with operators, got an empty graph; export the model to ONNX")
    known = DOMAINS | {function.domain for function in model.functions}
    for message in _walk(model):
        match message:
            case onnx.TensorProto() if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
                _check_external(message, files or {})
            case onnx.NodeProto() if message.domain not in known or message.op_type == _COMPILED:
                operator = f"{message.domain or 'ai.onnx'}.{message.op_type}"
                raise InvalidModel(
                    f"expected operators of ONNX and ONNX Runtime alone, got {operator[:_NAME_LENGTH]}; "
                    "export the model without custom or compiled operators"
                )
            case _:
                pass


def _check_external(tensor: onnx.TensorProto, files: Mapping[str, int]) -> None:
    """The data lie within a file that was given, so that nothing else is looked for, on disk or in memory."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    where = f"tensor {tensor.name[:_NAME_LENGTH]!r}"
    location = said.get("location", "")
    if len(said) < len(tensor.external_data) or not said.keys() <= _EXTERNAL_KEYS:
        raise InvalidModel(f"{where}: expected each of {sorted(_EXTERNAL_KEYS)} at most once, got other keys")
    if location not in files or _IN_MEMORY in location:
        raise InvalidModel(
            f"{where}: expected external data in one of the model's files {sorted(files)[:_LISTED]}, got "
            f"{location[:_NAME_LENGTH]!r}; upload that file with the model, or save the model as one file"
        )
    start, length = _number(said.get("offset", "0")), _number(said.get("length", "0"))
    if start is None or length is None or start + length > files[location]:
        raise InvalidModel(
            f"{where}: expected an offset and a length within the {files[location]} bytes of {location!r}, got "
            f"{said.get('offset', '0')[:_NAME_LENGTH]} and {said.get('length', '0')[:_NAME_LENGTH]}"
        )


def _number(text: str) -> int | None:
    return int(text) if _DIGITS.fullmatch(text) else None


def _walk(message: Message) -> Iterator[Message]:
    """The message and all within it: nodes and tensors sit in subgraphs, attributes and functions too."""
    stack = [message]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack += [value] if isinstance(value, Message) else value
