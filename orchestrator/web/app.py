"""The application: routes, who may use them, and what becomes of errors."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from orchestrator.web.call import Call, Handler, Services
from orchestrator.web.openapi import document
from orchestrator.web.operation import measured
from orchestrator.web.problems import mark_started, problems
from orchestrator.web.routes import ROUTES, Access, Route


class _OurFaults(logging.Filter):
    """Anyone can send as much as he likes that is no HTTP, or go away in its midst: no log is filled with that."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


_server_logger = logging.getLogger(f"{__name__}.server")
_server_logger.addFilter(_OurFaults())

RUNNER_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"keepalive_timeout": 75.0, "lingering_time": 5.0, "auto_decompress": False, "logger": _server_logger}
)
"""For `web.AppRunner(app, **RUNNER_OPTIONS)`: idle connections are not kept for an hour, and no body is inflated."""


def build_app(services: Services, extra_routes: Sequence[Route] = ()) -> web.Application:
    """The API, to be run by an `AppRunner`; `extra_routes` are served and documented like the others."""
    app = web.Application(middlewares=[measured(services.registry), problems])
    app.on_response_prepare.append(mark_started)
    routes = [*ROUTES, *extra_routes]
    openapi = Route(
        method="GET",
        path="/openapi.json",
        handler=_describe(lambda: document([*routes, openapi])),
        summary="This document.",
        access=Access.PUBLIC,
        answers={200: "application/json"},
    )
    for route in (*routes, openapi):
        app.router.add_route(route.method, route.path, _guarded(route, services))
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _guarded(route, services))

    async def end_streams(_app: web.Application) -> None:
        services.events.close()

    app.on_shutdown.append(end_streams)
    return app


def _guarded(route: Route, services: Services) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        owner = ""
        if route.access is Access.KEY:
            found = services.owner(request.headers, request.remote or "")
            owner = found if isinstance(found, str) else await found
        return await route.handler(Call(request, owner, services))

    return handle


def _describe(make: Callable[[], bytes]) -> Handler:
    async def openapi(_call: Call) -> web.StreamResponse:
        return web.Response(body=make(), content_type="application/json")

    return openapi
