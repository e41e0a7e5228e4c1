"""Trains the digit classifier and writes it as ONNX: `python models/digits/train.py [FILE]`.

The digits are the 1,797 scans of 8x8 pixels that ship inside scikit-learn; a quarter of them is held out and never
trained on. The learned weights are put into a graph built by hand, so that nothing but `onnx` is needed to export it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

SEED = 0
HELD_OUT = 0.25
LAYERS = (128, 64)
BRIGHTEST = 16.0
OPSET = 17
IR_VERSION = 8
DEFAULT_FILE = Path(__file__).with_name("digits.onnx")


class Digits(NamedTuple):
    """Images as rows of 64 brightnesses in 0..16, and which digit each shows."""

    train_images: NDArray[np.float32]
    test_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]


def load() -> Digits:
    """The same split every time."""
    data = load_digits()
    images = data.data.astype(np.float32)
    return Digits(*train_test_split(images, data.target, test_size=HELD_OUT, random_state=SEED, stratify=data.target))


def train(digits: Digits) -> MLPClassifier:
    classifier = MLPClassifier(LAYERS, alpha=1e-2, max_iter=500, random_state=SEED)
    # Sums are in the same order on every machine, and such small matrices gain nothing from more threads.
    with threadpool_limits(1):
        return classifier.fit(digits.train_images / BRIGHTEST, digits.train_labels)


def export(classifier: MLPClassifier) -> ModelProto:
    """`image` FP32 [-1, 64] in 0..16 to `label` INT64 [-1] and `probabilities` FP32 [-1, 10]."""
    nodes, weights, last = _layers(classifier)
    nodes += [
        helper.make_node("Softmax", [last], ["probabilities"], axis=1),
        helper.make_node("ArgMax", [last], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, producer_name="tandem", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(model, full_check=True)
    return model


def _layers(classifier: MLPClassifier) -> tuple[list[NodeProto], dict[str, NDArray[np.float64]], str]:
    weights = {"brightest": np.array(BRIGHTEST)}
    nodes, last = [helper.make_node("Div", ["image", "brightest"], ["scaled"])], "scaled"
    for index, (matrix, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        if index:
            nodes.append(helper.make_node("Relu", [last], [f"active{index}"]))
            last = f"active{index}"
        weights |= {f"matrix{index}": matrix, f"bias{index}": bias}
        nodes.append(helper.make_node("Gemm", [last, f"matrix{index}", f"bias{index}"], [f"layer{index}"]))
        last = f"layer{index}"
    return nodes, weights, last


def main(file: Path) -> None:
    digits = load()
    classifier = train(digits)
    model = export(classifier)
    file.write_bytes(model.SerializeToString(deterministic=True))
    accuracy = classifier.score(digits.test_images / BRIGHTEST, digits.test_labels)
    print(f"{accuracy:.4f} of {len(digits.test_labels)} held-out digits right; {file.stat().st_size} bytes in {file}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE)
