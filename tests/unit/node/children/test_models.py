"""What is refused before ONNX Runtime sees it."""

import pytest

from node.children.models import check_model, trial_model
from tandem.protocol.errors import InvalidModel
from tests.fixtures import onnx_models


@pytest.mark.parametrize(
    "data", [trial_model(), onnx_models.endless(), onnx_models.echo(), onnx_models.DIGITS.read_bytes()]
)
def test_ordinary_models_pass(data: bytes) -> None:
    check_model(data)


@pytest.mark.parametrize("inside", ["graph", "attribute", "branch"])
@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_is_refused_wherever_it_hides(location: str, inside: str) -> None:
    with pytest.raises(InvalidModel, match="external data"):
        check_model(onnx_models.external(location, inside=inside))


@pytest.mark.parametrize(("domain", "kind"), [("com.example", "Secret"), ("com.microsoft", "EPContext")])
def test_custom_and_compiled_operators_are_refused(domain: str, kind: str) -> None:
    with pytest.raises(InvalidModel, match=kind):
        check_model(onnx_models.custom_operator(domain, kind))


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model" * 100, b"\x08\x08"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidModel, match="expected an ONNX model"):
        check_model(data)
