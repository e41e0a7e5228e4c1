"""Artifacts in and out, streamed."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from aiohttp import web
from pydantic import TypeAdapter

from orchestrator.core.records import ArtifactRecord
from orchestrator.core.views import artifact_path
from orchestrator.web.call import Call, json_response
from orchestrator.web.parsing import chunks, media_type, path_value
from orchestrator.web.problems import problem_response
from orchestrator.web.ranges import Unsatisfiable, byte_range
from tandem.protocol.api import ArtifactView, Problem
from tandem.protocol.errors import InvalidRequest, NotFound
from tandem.protocol.ids import ArtifactId, AttemptRef

_ID: TypeAdapter[str] = TypeAdapter(ArtifactId)
_HEADERS = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "private, max-age=31536000, immutable",
    # A stranger's bytes under a stranger's media type: never to run as a page of this origin.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


async def upload(call: Call) -> web.StreamResponse:
    request = call.request
    stream = chunks(request, call.services.limits.idle)
    async with aclosing(stream):
        record = await call.services.artifacts.upload(stream, media_type(request), request.content_length)
    return _created(record)


async def download(call: Call) -> web.StreamResponse:
    return await send(call, await _record(call), {})


async def send(call: Call, record: ArtifactRecord, more: Mapping[str, str]) -> web.StreamResponse:
    """An artifact's bytes, or the range of them that is asked for, with `more` headers."""
    etag = f'"{record.id}"'
    common = {**_HEADERS, **more, "ETag": etag}
    if _names(call.request.headers.get("If-None-Match", ""), etag):
        return web.Response(status=304, headers=common)
    headers = call.request.headers
    wanted = headers.get("Range") if headers.get("If-Range", etag) == etag else None
    try:
        span = byte_range(wanted, record.size)
    except Unsatisfiable:
        return _unsatisfiable(record, str(wanted))
    return await _send(call, record, span, common)


async def signed_download(call: Call) -> web.StreamResponse:
    call.services.signer.verify("GET", call.request.path, call.request.query)
    return await download(call)


async def signed_upload(call: Call) -> web.StreamResponse:
    """A rendition from a node. The bound on its size is part of what is signed."""
    request, match = call.request, call.request.match_info
    call.services.signer.verify("PUT", request.path, request.query)
    ref = AttemptRef(task=match["task"], number=int(match["number"]))
    stream = chunks(request, call.services.limits.idle)
    async with aclosing(stream):
        record = await call.services.artifacts.upload_output(ref, match["name"], stream, int(request.query["limit"]))
    return _created(record)


async def _record(call: Call) -> ArtifactRecord:
    artifact_id = path_value(call.request, "id", _ID)
    if artifact_id is None:
        raise NotFound(f"expected an artifact's id (sha256: and 64 hex digits), got {call.request.match_info['id']!r}")
    return await call.services.artifacts.get(artifact_id)


def _created(record: ArtifactRecord) -> web.Response:
    view = ArtifactView(id=record.id, size=record.size, media_type=record.media_type)
    return json_response(view, 201, {"Location": artifact_path(record.id)})


def _names(header: str, etag: str) -> bool:
    """Whether a list of entity tags names this one, weakly compared."""
    return header.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _unsatisfiable(record: ArtifactRecord, wanted: str) -> web.Response:
    detail = f"expected a range within the artifact's {record.size} bytes, got {wanted!r}"
    headers = {"Content-Range": f"bytes */{record.size}"}
    return problem_response(Problem.of(InvalidRequest.code, detail, 416), headers)


async def _send(
    call: Call, record: ArtifactRecord, span: tuple[int, int] | None, common: Mapping[str, str]
) -> web.StreamResponse:
    start, end = span or (0, record.size)
    response = web.StreamResponse(status=206 if span else 200, headers=common)
    response.content_type = record.media_type
    response.content_length = end - start
    if span:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{record.size}"
    await response.prepare(call.request)
    if call.request.method != "HEAD":
        await _stream(call, response, record.id, (start, end))
    return response


async def _stream(call: Call, response: web.StreamResponse, artifact_id: str, span: tuple[int, int]) -> None:
    async with aclosing(call.services.artifacts.read(artifact_id, *span)) as parts:
        async for part in parts:
            async with asyncio.timeout(call.services.limits.idle):
                await response.write(part)
    await response.write_eof()
