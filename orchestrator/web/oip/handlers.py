"""The Open Inference Protocol's paths on aiohttp. Plain requests for inferences are answered before they get here."""

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from orchestrator.web import parsing
from orchestrator.web.call import Call
from orchestrator.web.catalogue import let_go
from orchestrator.web.oip import views
from orchestrator.web.oip.memory import Claim
from orchestrator.web.oip.replies import JSON, error_reply
from tandem.protocol.errors import InvalidRequest, NotFound, Unavailable
from tandem.protocol.models import ModelInfo

_UNSUPPORTED = {
    "systemsharedmemory": "send tensors in the request, since nodes share no memory with clients",
    "cudasharedmemory": "send tensors in the request, since nodes share no memory with clients",
    "trace": "see /metrics",
    "logging": "the operator chooses what is logged",
}


async def server(_call: Call) -> web.StreamResponse:
    return _json(views.server_metadata())


async def live(_call: Call) -> web.StreamResponse:
    return web.Response()


async def ready(call: Call) -> web.StreamResponse:
    """Whether requests can be taken; empty either way, as the protocol has it."""
    await call.services.ready()
    return web.Response()


async def model(call: Call) -> web.StreamResponse:
    info = await _model(call)
    versions = [each.version for each in await call.services.models.versions(call.owner, info.name)]
    return _json(views.model_metadata(info, versions))


async def model_ready(call: Call) -> web.StreamResponse:
    """A model that is cold is ready too: the first request has it loaded. Raises Unavailable where no node could."""
    await _model(call)
    if not await call.services.nodes():
        raise Unavailable("expected a node that serves models, got none connected; come again later")
    return web.Response()


async def config(call: Call) -> web.StreamResponse:
    return _json(views.model_config(await _model(call)))


async def stats(call: Call) -> web.StreamResponse:
    return _stats(call, [await _model(call)])


async def all_stats(call: Call) -> web.StreamResponse:
    return _stats(call, await call.services.models.all(call.owner))


async def infer(call: Call) -> web.StreamResponse:
    """For requests that are not plain ones: bodies in chunks, or what `head` leaves to aiohttp."""
    oip, request = call.services.oip, call.request

    async def read(claim: Claim) -> memoryview:
        body = bytearray()
        async for chunk in parsing.chunks(request, call.services.limits.idle, encoded=True):
            claim.take(len(chunk))
            body += chunk
            oip.inferences.check_size(len(body))
        return memoryview(body)

    named = request.match_info["model"], request.match_info.get("version")
    headers = {name.lower(): value for name, value in request.headers.items()}
    with oip.memory.claim() as claim:
        try:
            asked = await oip.inferences.wait(call.owner, named, headers, read, claim)
            answer = await oip.online.infer(asked.call)
            reply = oip.inferences.reply(asked, answer, claim) or await oip.inferences.compose(asked, answer)
        except ConnectionError:
            raise  # the client has gone: nobody is left to be told
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
            reply = error_reply(error)
        return web.Response(body=b"".join(reply.parts), status=reply.status, headers=reply.headers)


async def repository_index(call: Call) -> web.StreamResponse:
    online = call.services.oip.online
    asked = await _body(call)
    found = [
        views.repository_entry(each, ready=online.ready(each.served))
        for each in await call.services.models.all(call.owner)
    ]
    if asked.get("ready") is True:
        found = [each for each in found if each["state"] == "READY"]
    return _json(found)


async def load(call: Call) -> web.StreamResponse:
    """Has the model loaded on a node now. Its files and settings are those of the catalogue."""
    info = await _model(call)
    if (await _body(call)).get("parameters"):
        raise InvalidRequest("parameters: expected none; settings and files of a model are said to /v1/models")
    await call.services.oip.online.load(info)
    return _json({})


async def unload(call: Call) -> web.StreamResponse:
    """Has all nodes let go of it. Raises Forbidden for another key's model."""
    named = await _model(call)
    owned = await call.services.models.own(call.owner, named.name, named.version)
    await let_go(call, owned)
    return _json({})


async def unsupported(call: Call) -> web.StreamResponse:
    """Extensions that there are none of here, by name; and all else under /v2."""
    parts: Sequence[str] = call.request.match_info["rest"].split("/")
    for part in parts:
        if part in _UNSUPPORTED:
            raise InvalidRequest(f"expected none of the extension {part!r}, which is not served; {_UNSUPPORTED[part]}")
    raise NotFound("expected a path of the Open Inference Protocol, got another; see /openapi.json")


async def _model(call: Call) -> ModelInfo:
    given = call.request.match_info
    return await call.services.models.find(call.owner, given["model"], given.get("version"))


async def _body(call: Call) -> dict[str, Any]:
    raw = await parsing.read(call.request, call.services.limits)
    if not raw.strip():
        return {}
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"expected a body of JSON, or none: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("expected an object as the body, or none")
    return value


def _stats(call: Call, models: Sequence[ModelInfo]) -> web.Response:
    online = call.services.oip.online
    return _json({"model_stats": [views.model_stats(each, online.stats(each.served)) for each in models]})


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type=JSON)
