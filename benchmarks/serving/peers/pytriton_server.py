"""Triton with its Python backend, by nvidia-pytriton. Arguments: the models' folder, the HTTP port, the provider.

One instance a core of each model. The transformer is batched as Triton batches, up to 32 within 1 ms, under the name
`transformer-batched`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_INSTANCES = 2


def main() -> None:
    folder, port, provider = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    config = TritonConfig(http_port=port, http_address="127.0.0.1", allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        for path in sorted(folder.glob("*.onnx")):
            _bind(triton, path, provider, path.stem, ModelConfig(batching=False))
            if path.stem == "transformer":
                batched = ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=1000))
                _bind(triton, path, provider, f"{path.stem}-batched", batched)
        triton.serve()


def _bind(triton: Triton, path: Path, provider: str, name: str, config: ModelConfig) -> None:
    shapes = _session(path, provider)
    skip = 1 if config.batching else 0
    given, made = shapes.get_inputs()[0].shape, shapes.get_outputs()[0].shape
    triton.bind(
        model_name=name,
        infer_func=[_runner(_session(path, provider), batched=config.batching) for _ in range(_INSTANCES)],
        inputs=[Tensor(name="input", dtype=np.float32, shape=_shape(given[skip:]))],
        outputs=[Tensor(name="output", dtype=np.float32, shape=_shape(made[skip:]))],
        config=config,
    )


def _session(path: Path, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=[provider])


def _shape(sizes: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in sizes)


def _runner(session: ort.InferenceSession, *, batched: bool) -> Callable[..., Any]:
    if not batched:
        return lambda requests: [{"output": session.run(["output"], dict(each))[0]} for each in requests]

    @batch
    def run(**inputs: Any) -> list[Any]:
        return session.run(["output"], inputs)

    return run


if __name__ == "__main__":
    main()
