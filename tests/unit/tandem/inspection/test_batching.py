"""Whether rows may be run together, tried on models that are plain functions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tandem.inspection.batching import Array, Feeds, obstacle
from tandem.protocol.models import Tolerance
from tandem.protocol.tensors import Datatype, TensorSpec

FEEDS = {"x": np.zeros((1, 3), np.float32)}


def tried(run: Callable[[Array], Any], shape: tuple[int, ...] = (-1, 3), feeds: Feeds = FEEDS) -> str | None:
    given, gives = (TensorSpec(name=name, datatype=Datatype.FP32, shape=shape) for name in "xy")

    def answers(feeds: Feeds) -> Sequence[Array]:
        return [run(feeds["x"])]

    return obstacle([given], [gives], feeds, answers, Tolerance())


def test_rows_that_do_not_depend_on_each_other() -> None:
    assert tried(lambda x: x * 2) is None
    assert tried(lambda x: x * 2, feeds={"x": np.ones((1, 3), np.int64)}) is None


@pytest.mark.parametrize(
    ("run", "shape", "reason"),
    [
        (lambda x: x, (1, 3), "first dimension of 'x', 'y' is not open"),
        (lambda x: x - x.mean(axis=0), (-1, 3), "differs by up to"),
        (lambda x: x.sum(axis=0, keepdims=True), (-1, 3), "has 1 rows for two rows"),
        (lambda x: np.ones((len(x), len(x))), (-1, 3), "another shape for two rows"),
        (lambda x: np.reshape(x, (1, 3)), (-1, 3), "a run of two rows failed"),
        (lambda x: x > x.mean(axis=0), (-1, 3), "differs between one row and two"),
    ],
)
def test_rows_that_do(run: Callable[[Array], Any], shape: tuple[int, ...], reason: str) -> None:
    assert reason in str(tried(run, shape))
