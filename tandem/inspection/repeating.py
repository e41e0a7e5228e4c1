"""Whether a model gives the same again for the same inputs: tried, since not every cause shows in the file."""

from collections.abc import Sequence

import numpy as np

from tandem.inspection.batching import Feeds, Run
from tandem.protocol.models import Tolerance
from tandem.protocol.tensors import TensorSpec


def obstacle(outputs: Sequence[TensorSpec], feeds: Feeds, run: Run, tolerance: Tolerance) -> str | None:
    """Why two runs of the same inputs cannot be compared; None: they can. `feeds`: inputs that it runs with."""
    for spec, first, second in zip(outputs, run(feeds), run(feeds), strict=True):
        if first.shape != second.shape:
            return f"output {spec.name!r} has another shape in a second run of the same inputs"
        if first.dtype.kind not in "fc":
            alike = np.array_equal(first, second)
        else:
            alike = np.allclose(first, second, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
        if not alike:
            return f"output {spec.name!r} is another in a second run of the same inputs"
    return None
