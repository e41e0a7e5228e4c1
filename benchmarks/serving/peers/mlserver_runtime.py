"""ONNX Runtime as a runtime of MLServer, which has none: its codec for numpy, one run at a time on a thread a model."""

import asyncio
import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One model; its file stands in the settings as `uri`."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=[os.environ["PROVIDER"]])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = NumpyCodec.decode_input(payload.inputs[0]).astype("float32")
        (output,) = await asyncio.to_thread(self._session.run, None, {"input": values})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", output)])
