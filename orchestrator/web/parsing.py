"""What comes in, parsed; what is wrong with it, by name."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.core.media_types import UNKNOWN_TYPE, plain_media_type
from orchestrator.web.call import Call, Limits
from tandem.protocol.errors import InvalidLadder, InvalidRequest, InvalidTensor, TooLarge
from tandem.protocol.wording import wording

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_INLINE_BYTES = 65_536
"""A longer body is parsed in a thread, so that the event loop keeps turning."""
_KINDS = ("transcode", "inference", "batch_inference", "from_artifact", "from_url", "to_bucket", "to_urls")
_BY_FIELD: dict[str, type[InvalidRequest]] = {"ladder": InvalidLadder, "inputs": InvalidTensor}
_CHUNK_BYTES = 2**18


async def body(call: Call, adapter: TypeAdapter[T]) -> T:
    """The JSON body; raises TooLarge, or InvalidRequest, InvalidLadder, InvalidTensor naming each wrong field."""
    raw = await read(call.request, call.services.limits)
    try:
        if len(raw) <= _INLINE_BYTES:
            return adapter.validate_json(raw)
        return await asyncio.to_thread(adapter.validate_json, raw)
    except ValidationError as error:
        raise _invalid(error) from None


def query(request: web.Request, model: type[M]) -> M:
    """The query's parameters; raises InvalidRequest naming each that is wrong."""
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise _invalid(error) from None


def path_value(request: web.Request, name: str, adapter: TypeAdapter[T]) -> T | None:
    """A part of the path; None if it could not name anything."""
    try:
        return adapter.validate_python(request.match_info[name])
    except ValidationError:
        return None


def _invalid(error: ValidationError) -> InvalidRequest:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = [[str(part) for part in problem["loc"] if part not in _KINDS] for problem in found]
    fields = {place[0] for place in places if place}
    kind = _BY_FIELD.get(next(iter(fields)), InvalidRequest) if len(fields) == 1 else InvalidRequest
    return kind(wording(error, left_out=_KINDS))


async def read(request: web.Request, limits: Limits) -> bytes:
    """The whole body. Raises TooLarge, TimeoutError if nothing comes for too long, InvalidRequest if it is encoded."""
    parts, size = [], 0
    async with aclosing(chunks(request, limits.idle)) as stream:
        async for chunk in stream:
            size += len(chunk)
            if size > limits.body:
                raise TooLarge(
                    f"expected a body of at most {limits.body} bytes; large inputs are uploaded as artifacts"
                )
            parts.append(chunk)
    return b"".join(parts)


def media_type(request: web.Request) -> str:
    """What an upload says it is. curl's default says nothing, and a form is not the bytes themselves."""
    kind = request.content_type.lower()
    if kind.startswith("multipart/"):
        raise InvalidRequest("expected the file itself as the body, got a form; with curl use --data-binary @FILE")
    return UNKNOWN_TYPE if kind == "application/x-www-form-urlencoded" else plain_media_type(kind)


async def chunks(request: web.Request, idle: float, *, encoded: bool = False) -> AsyncGenerator[bytes, None]:
    """The body as it comes; raises TimeoutError if nothing does for `idle` seconds.

    Raises InvalidRequest if it is compressed, unless that is for the caller to see to.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity" and not encoded:
        raise InvalidRequest(f"Content-Encoding: expected the body as it is, got it as {encoding!r}")
    while True:
        async with asyncio.timeout(idle):
            chunk = await request.content.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk
