"""Where a model is tried, from what was seen of machines with and without a GPU."""

import pytest

from node.core.providers import CPU, CUDA, OPENVINO, TENSORRT, fallback_reason, options_of, order_of
from tandem.protocol.models import Provider

GPU_MACHINE = (CUDA, TENSORRT, CPU)


@pytest.mark.parametrize(
    ("working", "wanted", "order"),
    [
        (GPU_MACHINE, None, (CUDA, CPU)),
        (GPU_MACHINE, Provider.TENSORRT, (TENSORRT, CUDA, CPU)),
        (GPU_MACHINE, Provider.CPU, (CPU, CUDA)),
        ((CPU, OPENVINO), None, (OPENVINO, CPU)),
        ((CPU,), Provider.CUDA, (CPU,)),
        ((), None, ()),
    ],
)
def test_the_wanted_one_first_then_the_fastest(
    working: tuple[str, ...], wanted: Provider | None, order: tuple[str, ...]
) -> None:
    assert order_of(working, wanted) == order


def test_a_fall_back_is_never_silent() -> None:
    assert fallback_reason(GPU_MACHINE, None, CUDA, {}) == ""
    assert fallback_reason((CPU,), None, CPU, {}) == ""
    assert fallback_reason(GPU_MACHINE, Provider.CPU, CPU, {}) == ""
    assert fallback_reason(GPU_MACHINE, None, CPU, {CUDA: "no kernel for it"}) == f"{CUDA}: no kernel for it"
    assert fallback_reason((CPU,), Provider.TENSORRT, CPU, {}) == f"{TENSORRT}: did not pass its trial on this node"


def test_the_arena_of_the_gpu_is_bounded() -> None:
    options = options_of(CUDA, 1, 2**30)
    assert (options["device_id"], options["gpu_mem_limit"], options["use_tf32"]) == ("1", str(2**30), "0")
    assert options_of(TENSORRT, 0, 2**30)["trt_max_workspace_size"] == str(2**30)
    assert (options_of(OPENVINO, 0, 1), options_of(CPU, 0, 1)) == ({"device_type": "CPU"}, {})
