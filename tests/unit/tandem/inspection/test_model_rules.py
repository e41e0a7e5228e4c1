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
