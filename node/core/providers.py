"""Which of ONNX Runtime's execution providers a model is tried on, in which order, and with which options."""

from collections.abc import Collection, Mapping, Sequence

from tandem.protocol.models import Provider

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"

ON_GPU = (CUDA, TENSORRT)
ON_CPU = (CPU, OPENVINO)

_NAMES: Mapping[Provider, str] = {
    Provider.TENSORRT: TENSORRT,
    Provider.CUDA: CUDA,
    Provider.OPENVINO: OPENVINO,
    Provider.CPU: CPU,
}
_FASTEST_FIRST = (CUDA, OPENVINO, CPU)
"""TensorRT is left out: it builds an engine for minutes at the first load, so a model must ask for it."""

_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    # The exhaustive search takes half a second for every new shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Results are compared with those of other machines, some without such cores.
    "use_tf32": "0",
}


def order_of(working: Collection[str], wanted: Provider | None) -> tuple[str, ...]:
    """The providers to try for a model, of those that passed their trial on this machine: the wanted one first."""
    first = (_NAMES[wanted],) if wanted is not None else ()
    return tuple(dict.fromkeys(each for each in (*first, *_FASTEST_FIRST) if each in working))


def fallback_reason(working: Sequence[str], wanted: Provider | None, used: str, failures: Mapping[str, str]) -> str:
    """Why a model runs elsewhere than where it should; empty if it does not."""
    best = _NAMES[wanted] if wanted is not None else next(iter(order_of(working, None)), used)
    if best == used:
        return ""
    return f"{best}: {failures.get(best, 'did not pass its trial on this node')}"


def options_of(provider: str, device: int, memory: int) -> dict[str, str]:
    """ONNX Runtime's options of a provider; `memory` is what its arena may take, in bytes."""
    match provider:
        case "CUDAExecutionProvider":
            return {"device_id": str(device), "gpu_mem_limit": str(memory), **_CUDA_OPTIONS}
        case "TensorrtExecutionProvider":
            return {"device_id": str(device), "trt_max_workspace_size": str(memory)}
        case "OpenVINOExecutionProvider":
            return {"device_type": "CPU"}
        case _:
            return {}
