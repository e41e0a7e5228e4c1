"""From what a node answered, or what went wrong, to the bytes of a response."""

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from orchestrator.core.online import OnlineAnswer
from orchestrator.web.oip.requests import Wanted
from orchestrator.web.oip.served import Served
from tandem.protocol.errors import InvalidRequest, InvalidTensor, Overloaded, TandemError
from tandem.protocol.tensors import Datatype, Tensor, numbers_of, split_bytes

logger = logging.getLogger(__name__)

JSON = "application/json"
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"

_SERVER_ERROR = 500
_RETRY_SECONDS = 5
_UNFINISHED = b"null"


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    parts: list[bytes | memoryview]
    """The body, to be written one after the other."""

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


def inference_reply(served: Served, wanted: Wanted, answer: OnlineAnswer) -> Reply:
    """Raises InvalidTensor for an output that JSON cannot hold."""
    described: list[dict[str, Any]] = []
    data: list[bytes | memoryview] = []
    for tensor, binary in zip(answer.outputs, wanted.binary, strict=True):
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary:
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            data.append(tensor.data)
        else:
            output["data"] = _fragment(tensor)
        described.append(output)
    body: dict[str, Any] = {
        "model_name": served.info.name,
        "model_version": served.info.version,
        "outputs": described,
        "parameters": {
            "provider": answer.provider,
            "node": answer.node,
            "run_us": answer.run_us,
            "queue_us": answer.queue_us,
        },
    }
    if wanted.id is not None:
        body["id"] = wanted.id
    header = orjson.dumps(body)
    if any(wanted.binary):
        return Reply(200, {"Content-Type": BINARY, HEADER_LENGTH: str(len(header))}, [header, *data])
    return Reply(200, {"Content-Type": JSON}, [header])


def error_reply(error: Exception) -> Reply:
    """The protocol's form of an error, with the code of Tandem's own error tree beside it."""
    match error:
        case TandemError():
            if error.status >= _SERVER_ERROR and not error.retryable:
                logger.error("request failed", exc_info=error)
            return _error(error.status, error.code, error.detail, error_headers(error))
        case TimeoutError():
            detail = "expected the body to come at some pace, got it too slowly; send it again"
            return _error(408, InvalidRequest.code, detail, {})
        case _:
            logger.error("request failed", exc_info=error)
            return _error(_SERVER_ERROR, TandemError.code, "an unexpected error; it has been logged", {})


def error_headers(error: TandemError) -> dict[str, str]:
    match error:
        case Overloaded():
            return {"Retry-After": str(max(1, round(error.retry_after)))}
        case _ if error.status == 401:  # noqa: PLR2004 - Unauthorized
            return {"WWW-Authenticate": "Bearer"}
        case _ if error.status == 503:  # noqa: PLR2004 - Service Unavailable
            return {"Retry-After": str(_RETRY_SECONDS)}
        case _:
            return {}


def error_body(code: str, detail: str) -> bytes:
    return orjson.dumps({"error": detail, "code": code})


def _error(status: int, code: str, detail: str, headers: dict[str, str]) -> Reply:
    return Reply(status, {"Content-Type": JSON, **headers}, [error_body(code, detail)])


def _fragment(tensor: Tensor) -> orjson.Fragment:
    """The elements as a flat JSON list. NaN and infinities are written by these names, as Triton does."""
    if tensor.datatype is Datatype.BYTES:
        return orjson.Fragment(orjson.dumps(_texts(tensor)))
    numbers = numbers_of(tensor)
    text = orjson.dumps(numbers)
    if _UNFINISHED in text:
        text = json.dumps(numbers).encode()
    return orjson.Fragment(text)


def _texts(tensor: Tensor) -> list[str]:
    try:
        return [bytes(item).decode() for item in split_bytes(tensor)]
    except UnicodeDecodeError as error:
        raise InvalidTensor(
            f"output {tensor.name!r}: expected UTF-8, which JSON can hold, got other bytes; "
            "ask for this output with binary_data"
        ) from error
