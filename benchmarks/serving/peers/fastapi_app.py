"""FastAPI with ONNX Runtime, as its users write it: one process, runs in FastAPI's pool of threads. Raw tensors in
and out for the binary form, orjson for JSON. Run by uvicorn. `MODELS` is the folder of the models, `PROVIDER` is ONNX
Runtime's.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

_OPTIONS = ort.SessionOptions()
_OPTIONS.intra_op_num_threads = _OPTIONS.inter_op_num_threads = 1
_SESSIONS = {
    path.stem: ort.InferenceSession(path, _OPTIONS, providers=[os.environ["PROVIDER"]])
    for path in Path(os.environ["MODELS"]).glob("*.onnx")
}
_HEADER = "inference-header-content-length"

app = FastAPI()


@app.post("/v2/models/{name}/infer")
async def infer(name: str, request: Request) -> Response:
    body = await request.body()
    session = _SESSIONS[name]
    if (size := request.headers.get(_HEADER)) is None:
        tensor = orjson.loads(body)["inputs"][0]
        values = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        (output,) = await run_in_threadpool(session.run, None, {"input": values})
        answer: dict[str, Any] = {"name": "output", "datatype": "FP32", "shape": output.shape}
        named = {**answer, "data": output.ravel()}
        return Response(
            orjson.dumps({"outputs": [named]}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )
    shape = orjson.loads(body[: int(size)])["inputs"][0]["shape"]
    values = np.frombuffer(body, np.float32, offset=int(size)).reshape(shape)
    (output,) = await run_in_threadpool(session.run, None, {"input": values})
    parameters = {"binary_data_size": output.nbytes}
    named = {"name": "output", "datatype": "FP32", "shape": output.shape, "parameters": parameters}
    head = orjson.dumps({"outputs": [named]})
    return Response(head + output.tobytes(), headers={_HEADER: str(len(head))}, media_type="application/octet-stream")
