"""The committed digit classifier, and the script that made it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.digits.train import Digits, load
from node.adapters.inference import WorkerInference
from node.adapters.workers import InferenceSettings
from tandem.clock import SystemClock
from tandem.process import detect_sandbox
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.onnx_models import DIGITS, files, put

ACCURACY = 0.97
MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load()


async def answers(
    folder: Path, models: list[bytes], images: NDArray[np.float32]
) -> Iterator[list[NDArray[np.float32]]]:
    """What each model says about the images: labels, then probabilities."""
    tensor = Tensor(name="image", datatype=Datatype.FP32, shape=images.shape, data=images.tobytes())
    sandbox = await detect_sandbox()
    async with WorkerInference(folder, InferenceSettings(), sandbox=sandbox, clock=SystemClock()) as inference:
        runs = [await inference.run(files(put(folder, model)), [tensor]) for model in models]
    return (
        [np.frombuffer(run.outputs[0].data, "<i8"), np.frombuffer(run.outputs[1].data, "<f4").reshape(-1, 10)]
        for run in runs
    )


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model that the script makes now."""
    file = tmp_path_factory.mktemp("digits") / "new.onnx"
    subprocess.run([sys.executable, "models/digits/train.py", file], check=True)
    return file.read_bytes()


async def test_committed_model_is_as_good_as_it_says_and_the_script_makes_it_again(
    digits: Digits, anew: bytes, tmp_path: Path
) -> None:
    committed = DIGITS.read_bytes()
    (labels, probabilities), (new_labels, new_probabilities) = await answers(
        tmp_path, [committed, anew], digits.test_images
    )
    assert len(committed) < MAX_BYTES
    assert np.mean(labels == digits.test_labels) >= ACCURACY
    assert np.array_equal(probabilities.argmax(axis=1), labels)
    assert np.mean(new_labels == digits.test_labels) >= ACCURACY
    assert np.abs(probabilities - new_probabilities).mean() < 0.01


def test_nothing_that_was_trained_on_is_held_out(digits: Digits) -> None:
    assert len(digits.test_labels) == 450
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
