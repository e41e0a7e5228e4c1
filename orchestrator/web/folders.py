"""The folders of jobs, for players: open to pages of every origin, by key or by a signed path."""

from aiohttp import web

from orchestrator.core.records import ArtifactRecord
from orchestrator.service.assembly import MEDIA_TYPES
from orchestrator.service.folders import Growing
from orchestrator.web.artifacts import send
from orchestrator.web.call import Call, json_response
from orchestrator.web.jobs import job_id
from tandem.protocol.api import FileList, FileView

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, ETag",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, Range, If-None-Match, If-Range",
    "Access-Control-Max-Age": "86400",
}
_PLAYLISTS = (MEDIA_TYPES[".m3u8"], MEDIA_TYPES[".mpd"])
_FRESH = {"Cache-Control": "no-cache"}


async def listing(call: Call) -> web.StreamResponse:
    job = job_id(call)
    found = await call.services.folders.files(await call.services.jobs.snapshot(job, call.owner))
    views = tuple(
        FileView(path=file.path, artifact=file.artifact, media_type=file.media_type, size=file.size) for file in found
    )
    return json_response(FileList(files=views))


async def file(call: Call) -> web.StreamResponse:
    job = job_id(call)
    await call.services.jobs.snapshot(job, call.owner)
    return await _answer(call, job)


async def signed_file(call: Call) -> web.StreamResponse:
    match = call.request.match_info
    job = job_id(call)
    call.services.signer.verify_folder(job, match["expires"], match["signature"])
    return await _answer(call, job)


async def preflight(_: Call) -> web.StreamResponse:
    return web.Response(status=204, headers={**_CORS, **_PREFLIGHT})


async def signed_preflight(call: Call) -> web.StreamResponse:
    return await preflight(call)


async def _answer(call: Call, job: str) -> web.StreamResponse:
    found = await call.services.folders.open(job, call.request.match_info["path"])
    if isinstance(found, Growing):
        body = found.text.encode()
        return web.Response(body=body, content_type=MEDIA_TYPES[".m3u8"], headers={**_CORS, **_FRESH})
    record = ArtifactRecord(found.artifact, found.size, found.media_type, created_at=0)
    return await send(call, record, {**_CORS, **(_FRESH if found.media_type in _PLAYLISTS else {})})
