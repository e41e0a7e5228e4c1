"""The models that a machine is tried and measured with."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CALIBRATION_SHAPE = (1, 16, 96, 96)

_CALIBRATION_LAYERS = 8


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
