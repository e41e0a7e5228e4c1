"""Whether requests to a model may be run as one: tried, since nothing in the file says it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tandem.protocol.models import Tolerance
from tandem.protocol.tensors import TensorSpec

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Sequence[Array]]

_SEED = 7


def obstacle(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], feeds: Feeds, run: Run, tolerance: Tolerance
) -> str | None:
    """Why rows of two requests cannot be run as one; None: they can.

    The first dimension must be open in all inputs and outputs, and two rows together must give what they give each by
    itself, within the tolerance. `feeds` are inputs that the model runs with.
    """
    fixed = [spec.name for spec in (*inputs, *outputs) if not spec.shape or spec.shape[0] >= 0]
    if fixed:
        return f"the first dimension of {', '.join(map(repr, fixed[:5]))} is not open"
    rng = np.random.default_rng(_SEED)
    one, two = ({name: _row(array, rng) for name, array in feeds.items()} for _ in range(2))
    try:
        apart = [run(one), run(two)]
        together = run({name: np.concatenate([one[name], two[name]]) for name in one})
    except Exception as error:  # noqa: BLE001 - each of ONNX Runtime's errors is a class of its own below Exception
        return f"a run of two rows failed: {' '.join(str(error).split())[:300]}"
    for spec, first, second, both in zip(outputs, *apart, together, strict=True):
        problem = _difference(spec.name, [first, second], both, tolerance)
        if problem is not None:
            return problem
    return None


def _row(array: Array, rng: np.random.Generator) -> Array:
    """A first row like the given one, but other than its neighbour: equal ones would hide that they mix."""
    row: Array = array[:1]
    if row.dtype.kind == "f":
        row = (row + rng.random(row.shape)).astype(row.dtype)
    elif row.dtype.kind in "iu":
        row = row ^ rng.integers(0, 2, row.shape).astype(row.dtype)
    return row


def _difference(name: str, apart: Sequence[Array], together: Array, tolerance: Tolerance) -> str | None:
    rows = [len(each) for each in apart]
    if rows != [1, 1] or len(together) != sum(rows):
        return f"output {name!r} has {len(together)} rows for two rows of input, and {rows} for one each"
    try:
        expected = np.concatenate(apart)
    except ValueError:
        return f"output {name!r} has another shape for each row"
    if expected.shape != together.shape:
        return f"output {name!r} has another shape for two rows than for one"
    if expected.dtype.kind not in "fc":
        return None if np.array_equal(expected, together) else f"output {name!r} differs between one row and two"
    if np.allclose(together, expected, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True):
        return None
    worst = float(np.nanmax(np.abs(together.astype(float) - expected.astype(float))))
    return f"output {name!r} differs by up to {worst:.3g} between one row and two, beyond the tolerance"
