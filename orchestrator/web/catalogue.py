"""Models and nodes."""

from aiohttp import web
from pydantic import TypeAdapter

from orchestrator.core.views import model_view, node_summary
from orchestrator.web import parsing
from orchestrator.web.call import Call, json_response
from tandem.protocol.api import ModelChange, ModelList, ModelView, NewModel, NodeList
from tandem.protocol.errors import NotFound
from tandem.protocol.ids import Name
from tandem.protocol.models import ModelInfo

NEW_MODEL: TypeAdapter[NewModel] = TypeAdapter(NewModel)
MODEL_CHANGE: TypeAdapter[ModelChange] = TypeAdapter(ModelChange)

_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def add_model(call: Call) -> web.StreamResponse:
    request = await parsing.body(call, NEW_MODEL)
    model, new = await call.services.models.add(request, call.owner)
    path = f"/v1/models/{model.name}/versions/{model.version}"
    return json_response(_view(call, model), 201 if new else 200, {"Location": path})


async def models(call: Call) -> web.StreamResponse:
    return json_response(_list(call, await call.services.models.all(call.owner)))


async def versions(call: Call) -> web.StreamResponse:
    return json_response(_list(call, await call.services.models.versions(call.owner, _part(call, "name"))))


async def model(call: Call) -> web.StreamResponse:
    name, version = _place(call)
    return json_response(_view(call, await call.services.models.find(call.owner, name, version)))


async def change_model(call: Call) -> web.StreamResponse:
    name, version = _place(call)
    wanted = await parsing.body(call, MODEL_CHANGE)
    old = await call.services.models.own(call.owner, name, version)
    changed = await call.services.models.change(call.owner, name, version, wanted)
    if changed.served != old.served:
        await let_go(call, old)
    return json_response(_view(call, changed))


async def delete_model(call: Call) -> web.StreamResponse:
    name, version = _place(call)
    gone = await call.services.models.delete(call.owner, name, version)
    await let_go(call, gone)
    return web.Response(status=204)


async def unload_model(call: Call) -> web.StreamResponse:
    name, version = _place(call)
    await let_go(call, await call.services.models.own(call.owner, name, version))
    return web.Response(status=204)


async def let_go(call: Call, model: ModelInfo) -> None:
    """Has all nodes unload it, unless another model is served by the same."""
    if not call.services.models.shared(model):
        await call.services.unload(model.served)


async def nodes(call: Call) -> web.StreamResponse:
    connected = await call.services.nodes()
    return json_response(NodeList(nodes=tuple(node_summary(node) for node in connected)))


def _view(call: Call, model: ModelInfo) -> ModelView:
    return model_view(model, own=model.owner == call.owner, answers=call.services.models.answers(model))


def _list(call: Call, found: list[ModelInfo]) -> ModelList:
    return ModelList(models=tuple(_view(call, model) for model in found))


def _place(call: Call) -> tuple[str, str]:
    return _part(call, "name"), _part(call, "version")


def _part(call: Call, which: str) -> str:
    found = parsing.path_value(call.request, which, _NAME)
    if found is None:
        raise NotFound(f"expected the path of a model, got {call.request.path!r}")
    return found
