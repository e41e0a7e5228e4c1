"""The models of the serving benchmark, with random weights: built anew, the same each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17
_WORDS, _WIDTH, _HEADS, _BLOCKS = 8, 384, 12, 4


@dataclass(frozen=True, slots=True)
class BenchModel:
    """One input, one output, float32; the first dimension of both is open where `batchable`."""

    name: str
    shape: tuple[int, ...]
    """Of one request's input."""
    proto: onnx.ModelProto
    batchable: bool = False

    def sample(self) -> NDArray[np.float32]:
        return np.random.default_rng(7).standard_normal(self.shape, np.float32)


def small() -> BenchModel:
    """A convolution net of about 0.4 ms on one core; 12 KB in, 40 bytes out."""
    return _convolutions("small", size=32, channels=(26, 26, 26))


def large() -> BenchModel:
    """A convolution net of some 36 ms on one core; 600 KB in, 40 bytes out."""
    return _convolutions("large", size=224, channels=(24, 32, 32, 24))


def transformer() -> BenchModel:
    """Four blocks of width 384 over 8 words; the batch is open."""
    layers, x = _Layers(), "input"
    for block in range(_BLOCKS):
        x = layers.attention(x, f"block{block}")
    layers.nodes.append(helper.make_node("Identity", [x], ["output"]))
    shape = [None, _WORDS, _WIDTH]
    return BenchModel("transformer", (1, _WORDS, _WIDTH), layers.model(shape, shape), batchable=True)


def _convolutions(name: str, *, size: int, channels: Sequence[int]) -> BenchModel:
    layers, x, depth = _Layers(), "input", 3
    for index, width in enumerate(channels):
        weights = layers.weights(f"kernel{index}", (width, depth, 3, 3))
        x = layers.add("Relu", layers.add("Conv", x, weights, pads=[1, 1, 1, 1]))
        depth = width
    pooled = layers.add("Flatten", layers.add("GlobalAveragePool", x))
    layers.nodes.append(helper.make_node("MatMul", [pooled, layers.weights("head", (depth, 10))], ["output"]))
    return BenchModel(name, (1, 3, size, size), layers.model([1, 3, size, size], [1, 10]))


class _Layers:
    """Nodes and weights of a graph as it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(3)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weights(self, name: str, shape: tuple[int, ...]) -> str:
        scale = np.float32(1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0]))
        self._weights.append(numpy_helper.from_array(self._random.standard_normal(shape, np.float32) * scale, name))
        return name

    def constant(self, name: str, values: Sequence[int]) -> str:
        self._weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def attention(self, x: str, name: str) -> str:
        """A block of self-attention and two dense layers, each added to what went in."""
        parts = [self._heads(x, f"{name}_{part}") for part in "qkv"]
        keys = self.add("Transpose", parts[1], perm=[0, 1, 3, 2])
        scale = f"{name}_scale"
        self._weights.append(numpy_helper.from_array(np.array((_WIDTH / _HEADS) ** -0.5, np.float32), scale))
        scores = self.add("Softmax", self.add("Mul", self.add("MatMul", parts[0], keys), scale), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
        joined = self.add("Reshape", mixed, self.constant(f"{name}_join", [0, _WORDS, _WIDTH]))
        attended = self.add("Add", x, self.add("MatMul", joined, self.weights(f"{name}_o", (_WIDTH, _WIDTH))))
        wide = self.add("Relu", self.add("MatMul", attended, self.weights(f"{name}_up", (_WIDTH, 4 * _WIDTH))))
        return self.add("Add", attended, self.add("MatMul", wide, self.weights(f"{name}_down", (4 * _WIDTH, _WIDTH))))

    def _heads(self, x: str, name: str) -> str:
        made = self.add("MatMul", x, self.weights(name, (_WIDTH, _WIDTH)))
        split = self.constant(f"{name}_split", [0, _WORDS, _HEADS, _WIDTH // _HEADS])
        return self.add("Transpose", self.add("Reshape", made, split), perm=[0, 2, 1, 3])

    def model(self, taken: Sequence[int | None], given: Sequence[int | None]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "bench",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, taken)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, given)],
            self._weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return made
