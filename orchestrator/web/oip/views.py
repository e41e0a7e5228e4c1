"""What the Open Inference Protocol says of the server, of models and of what they have done, as Triton writes it."""

from importlib.metadata import version
from typing import Any

from orchestrator.ports.online import Histogram, ModelStats
from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import Datatype, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
PLATFORM = "onnxruntime_onnx"

_NS = 1000
_MS = 1000
_SERVER = {"name": "tandem", "version": version("tandem"), "extensions": EXTENSIONS}


def server_metadata() -> dict[str, Any]:
    return _SERVER


def model_metadata(model: ModelInfo, versions: list[str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def model_config(model: ModelInfo) -> dict[str, Any]:
    """As Triton's configuration. Where requests are put together, shapes go without their first dimension."""
    settings = model.settings
    batches = settings.max_batch > 1
    config: dict[str, Any] = {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": settings.max_batch if batches else 0,
        "input": [_configured(spec, batches=batches) for spec in model.inputs],
        "output": [_configured(spec, batches=batches) for spec in model.outputs],
    }
    if batches:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": settings.batch_window_us}
    return config


def model_stats(model: ModelInfo, stats: ModelStats) -> dict[str, Any]:
    """Counters since the process began, shared by models of the same files. Times of tensors on their way are in none
    of the parts, only in `success`.
    """
    compute = _duration(stats.compute.count, stats.compute.total)
    nothing = _duration(0, 0)
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": int(stats.last_at * _MS),
        "inference_count": stats.inferences,
        "execution_count": round(stats.executions),
        "inference_stats": {
            "success": _histogram(stats.total),
            "fail": _duration(sum(stats.failures.values()), 0),
            "queue": _histogram(stats.queue),
            "compute_input": _duration(stats.compute.count, 0),
            "compute_infer": compute,
            "compute_output": _duration(stats.compute.count, 0),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "response_stats": {},
        "batch_stats": _batches(stats),
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": model.memory * 2**20}],
    }


def repository_entry(model: ModelInfo, *, ready: bool) -> dict[str, str]:
    if ready:
        return {"name": model.name, "version": model.version, "state": "READY", "reason": ""}
    return {"name": model.name, "version": model.version, "state": "UNAVAILABLE", "reason": "loaded when asked for"}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": spec.shape}


def _configured(spec: TensorSpec, *, batches: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": spec.shape[1:] if batches else spec.shape}


def _batches(stats: ModelStats) -> list[dict[str, Any]]:
    """By rows that were run together; the time is shared out evenly, since it is not kept apart."""
    answers = sum(stats.batches.values())
    found = []
    for size, count in sorted(stats.batches.items()):
        infer = _duration(count, stats.compute.total * count // max(1, answers))
        nothing = _duration(count, 0)
        found.append({"batch_size": size, "compute_input": nothing, "compute_infer": infer, "compute_output": nothing})
    return found


def _histogram(histogram: Histogram) -> dict[str, int]:
    return _duration(histogram.count, histogram.total)


def _duration(count: int, microseconds: int) -> dict[str, int]:
    return {"count": count, "ns": microseconds * _NS}
