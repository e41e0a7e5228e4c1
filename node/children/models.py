"""What a model file must be before ONNX Runtime sees it, and the models that a machine is tried and measured with."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from tandem.protocol.errors import InvalidModel

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime itself brings; anything else would be a library of the user's."""

CALIBRATION_SHAPE = (1, 16, 96, 96)

_CALIBRATION_LAYERS = 8
_COMPILED = "EPContext"
"""An operator that holds a provider's compiled binary, or the path of one."""


def check_model(data: bytes) -> None:
    """Raises InvalidModel for what is not ONNX, refers to other files, or needs operators from elsewhere."""
    model = _parse(data)
    domains = STANDARD_DOMAINS | {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in domains or node.op_type == _COMPILED:
            raise InvalidModel(
                f"expected operators of {sorted(STANDARD_DOMAINS)}, got {node.op_type!r} of {node.domain!r}; "
                "export the model without custom or compiled operators"
            )
        if any(uses_external_data(tensor) for tensor in _attribute_tensors(node)):
            raise _external()
    if any(uses_external_data(tensor) for graph in _graphs(model) for tensor in _initializers(graph)):
        raise _external()


def trial_model() -> bytes:
    """Adds a number to itself."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "trial", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def calibration_model() -> bytes:
    """A chain of 3x3 convolutions with ReLU over `x` of CALIBRATION_SHAPE: some 170 million multiplications."""
    channels = CALIBRATION_SHAPE[1]
    kernel = np.random.default_rng(0).normal(0, 0.1, (channels, channels, 3, 3)).astype(np.float32)
    nodes = []
    for layer in range(_CALIBRATION_LAYERS):
        nodes += [
            helper.make_node("Conv", [f"a{layer}", "kernel"], [f"b{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"b{layer}"], [f"a{layer + 1}"]),
        ]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, CALIBRATION_SHAPE) for name in ("x", "y")]
    weights = [numpy_helper.from_array(kernel, "kernel")]
    graph = helper.make_graph(nodes, "calibration", value[:1], value[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _parse(data: bytes) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, of which module depends on its version
        raise InvalidModel(f"expected an ONNX model, got {len(data)} bytes that are none: {error}") from error
    if not model.graph.node:
        raise InvalidModel("expected an ONNX model with at least one operator, got none")
    return model


def _external() -> InvalidModel:
    return InvalidModel("expected a model in one file, got one with external data; save it with its weights inside")


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The model's graph and every graph inside an attribute, such as the body of a Loop."""
    waiting = [model.graph]
    functions = [node for function in model.functions for node in function.node]
    waiting += _subgraphs(functions)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _subgraphs(graph.node)


def _subgraphs(nodes: Any) -> list[GraphProto]:
    found = []
    for node in nodes:
        for attribute in node.attribute:
            found += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return found


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _attribute_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
