"""Models that are refused before anything loads them."""

import pytest

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
