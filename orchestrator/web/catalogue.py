"""Models and nodes."""

from aiohttp import web
from pydantic import TypeAdapter

from orchestrator.core.views import node_summary
from orchestrator.web import parsing
from orchestrator.web.call import Call, json_response
from tandem.protocol.api import ModelList, NewModel, NodeList
from tandem.protocol.errors import NotFound
from tandem.protocol.ids import Name

NEW_MODEL: TypeAdapter[NewModel] = TypeAdapter(NewModel)

_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def add_model(call: Call) -> web.StreamResponse:
    request = await parsing.body(call, NEW_MODEL)
    model, new = await call.services.models.add(request)
    path = f"/v1/models/{model.name}/versions/{model.version}"
    return json_response(model, 201 if new else 200, {"Location": path})


async def models(call: Call) -> web.StreamResponse:
    return json_response(ModelList(models=tuple(await call.services.models.all())))


async def model(call: Call) -> web.StreamResponse:
    name = parsing.path_value(call.request, "name", _NAME)
    version = parsing.path_value(call.request, "version", _NAME)
    if name is None or version is None:
        raise NotFound(f"expected the path of a model's version, got {call.request.path!r}")
    return json_response(await call.services.models.get(name, version))


async def nodes(call: Call) -> web.StreamResponse:
    connected = await call.services.nodes()
    return json_response(NodeList(nodes=tuple(node_summary(node) for node in connected)))
