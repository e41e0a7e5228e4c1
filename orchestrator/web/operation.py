"""For those who run it: health, readiness, metrics."""

import time
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from orchestrator.web.call import Call, json_response
from tandem.protocol.api import View


class Health(View):
    status: Literal["ok"] = "ok"


async def health(_call: Call) -> web.StreamResponse:
    """The process turns; whether what it needs does too is `ready`'s to say."""
    return json_response(Health())


async def ready(call: Call) -> web.StreamResponse:
    await call.services.ready()
    return json_response(Health())


async def metrics(call: Call) -> web.StreamResponse:
    await call.services.measure()
    body = generate_latest(call.services.registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def measured(registry: CollectorRegistry) -> Middleware:
    """Counts and times requests by route; what matched none is counted together."""
    count = Counter("tandem_http_requests", "HTTP requests.", ["method", "route", "status"], registry=registry)
    seconds = Histogram("tandem_http_request_seconds", "Time to answer.", ["method", "route"], registry=registry)

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "none"
        method = request.method if resource else "any"
        begun = time.perf_counter()
        response = await handler(request)
        count.labels(method, route, response.status).inc()
        seconds.labels(method, route).observe(time.perf_counter() - begun)
        return response

    return measure
