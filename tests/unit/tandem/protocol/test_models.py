"""Models: what names them, and what their files may be called."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.models import FileName, ModelFile, ModelInfo, ModelSettings, WarmUpTensor, model_digest

A, B = (f"sha256:{digit * 64}" for digit in "ab")


def test_a_model_of_one_file_is_named_by_it() -> None:
    assert model_digest(A) == A


def test_every_file_and_its_name_count() -> None:
    one, two = ModelFile(name="w", artifact=B, size=1), ModelFile(name="v", artifact=A, size=1)
    names = {model_digest(A, files) for files in [[], [one], [two], [one, two], [one.model_copy(update={"name": "x"})]]}
    assert len(names) == 5
    assert model_digest(A, [one, two]) == model_digest(A, [two, one])


@pytest.mark.parametrize("name", ["weights.bin", "data/weights.bin", "model.onnx.data", "a..b", "ä b"])
def test_names_of_files(name: str) -> None:
    assert TypeAdapter(FileName).validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb"),
        *("model.onnx", "model.onnx/x", "x" * 256, "/".join("a" * 9), "C:\\x"),
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FileName).validate_python(name)


def test_a_model_stored_by_an_older_version_can_be_read() -> None:
    old = {"name": "m", "version": "1", "artifact": A, "size": 10, "inputs": [], "outputs": [], "cost_us": 5}
    model = ModelInfo.model_validate({**old, "memory": 1})
    assert (model.files, model.settings, model.owner, model.public) == ((), ModelSettings(), "local", True)
    assert not model.batchable
    assert model.digest == A


def test_a_private_model_is_its_owners() -> None:
    old = {"name": "m", "version": "1", "artifact": A, "size": 10, "inputs": [], "outputs": [], "cost_us": 5}
    model = ModelInfo.model_validate({**old, "memory": 1, "owner": "key_a", "public": False})
    assert model.visible_to("key_a")
    assert not model.visible_to("key_b")


def test_data_of_warm_ups_fill_the_tensor() -> None:
    for data in [(), (1,), (1, 2, 3)]:
        WarmUpTensor(name="x", shape=(3,), data=data)
    with pytest.raises(ValidationError, match="one value or 3"):
        WarmUpTensor(name="x", shape=(3,), data=(1, 2))
