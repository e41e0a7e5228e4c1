"""What a model file must be before ONNX Runtime sees it: what a hostile one asks for may be done while it loads."""

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
_NAME_LENGTH = 200


def check_model(data: bytes) -> None:
    """Raises InvalidModel unless it is an ONNX model, whole in itself, that asks only for known operators."""
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
                raise InvalidModel(
                    "expected all weights inside the file, got external data; save the model as one file"
                )
            case onnx.NodeProto() if message.domain not in known or message.op_type == _COMPILED:
                operator = f"{message.domain or 'ai.onnx'}.{message.op_type}"
                raise InvalidModel(
                    f"expected operators of ONNX and ONNX Runtime alone, got {operator[:_NAME_LENGTH]}; "
                    "export the model without custom or compiled operators"
                )
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
