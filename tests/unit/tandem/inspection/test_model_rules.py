"""Models that are refused before anything loads them."""

import onnx
import pytest
from onnx import helper

from tandem.inspection.model_rules import check_model
from tandem.protocol.errors import InvalidModel
from tests.fixtures import onnx_models


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 100, "a file that is none"),
        (b"", "empty graph"),
        (onnx_models.external("/etc/passwd"), "external data"),
        (onnx_models.external("neighbour", inside="attribute"), "external data"),
        (onnx_models.external("neighbour", inside="branch"), "external data"),
        (onnx_models.custom_operator(), r"got com\.example\.Secret"),
        (onnx_models.custom_operator("com.microsoft", "EPContext"), "EPContext"),
    ],
    ids=["garbage", "empty", "external", "external in attribute", "external in branch", "custom", "compiled"],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        check_model(data)


def calling(functions: dict[str, list[str]]) -> bytes:
    """Functions by name, each with the functions that it calls; the graph calls `f0`."""
    domain, opsets = "com.example", [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]

    def node(called: str) -> onnx.NodeProto:
        return helper.make_node(called, ["x"], ["y"], domain="" if called == "Identity" else domain)

    graph = helper.make_graph([node("f0")], "calls", [onnx_models.value("x")], [onnx_models.value("y")])
    made = [
        helper.make_function(domain, name, ["x"], ["y"], [node(each) for each in called], opsets)
        for name, called in functions.items()
    ]
    return bytes(helper.make_model(graph, opset_imports=opsets, functions=made).SerializeToString())


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on: onnx itself would not write it."""
    data = b""
    for field in [6, 5, 1] * depth + [7]:
        length, rest = b"", len(data)
        while rest > 127:
            length, rest = length + bytes([rest & 127 | 128]), rest >> 7
        data = bytes([field << 3 | 2]) + length + bytes([rest]) + data
    return data


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"f0": ["f1"], "f1": ["f0"]}, "calls itself"),
        ({"f0": ["f0"]}, "'f0', which calls itself"),
        ({**{f"f{n}": [f"f{n + 1}"] * 2 for n in range(200)}, "f200": ["Identity"]}, "at most 250000 operators"),
    ],
    ids=["in turn", "itself", "doubling"],
)
def test_functions_that_grow_without_end_are_refused(functions: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        check_model(calling(functions))


def test_functions_that_end_pass() -> None:
    assert check_model(calling({"f0": ["f1", "f1"], "f1": ["Identity"]})) == (17, ())


def test_a_model_cut_short_or_nested_deep_is_refused() -> None:
    for data in (onnx_models.DIGITS.read_bytes()[:-100], nested(60)):
        with pytest.raises(InvalidModel, match="whole and not nested beyond"):
            check_model(data)


def test_ordinary_models_pass() -> None:
    check_model(onnx_models.DIGITS.read_bytes())
    check_model(onnx_models.endless())


def test_external_data_in_the_models_own_files_passes() -> None:
    check_model(onnx_models.external("data/weights.bin", offset="4", length="4"), {"data/weights.bin": 8})


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("other.bin", "0", "4"),
        ("./weights.bin", "0", "4"),
        ("../weights.bin", "0", "4"),
        ("*/_ORT_MEM_ADDR_/*", "4096", "4"),
        ("weights.bin", "5", "4"),
        ("weights.bin", "-1", "4"),
        ("weights.bin", "0", "9" * 40),
        ("weights.bin", "0x0", "4"),
    ],
)
def test_external_data_elsewhere_are_refused(location: str, offset: str, length: str) -> None:
    with pytest.raises(InvalidModel, match="expected"):
        check_model(
            onnx_models.external(location, offset=offset, length=length), {"weights.bin": 8, "*/_ORT_MEM_ADDR_/*": 8192}
        )


def test_external_data_with_other_keys_are_refused() -> None:
    with pytest.raises(InvalidModel, match="at most once"):
        check_model(onnx_models.external("weights.bin", basepath="/etc"), {"weights.bin": 8})
