"""A submitter's webhook, and what was sent to it."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, StringConstraints, TypeAdapter

from orchestrator.core.views import delivery_view, webhook_view
from orchestrator.web import parsing
from orchestrator.web.call import Call, json_response
from tandem.protocol.api import DeliveryList, WebhookSettings
from tandem.protocol.ids import Frozen, JobId
from tandem.protocol.webhooks import DeliveryStatus

SETTINGS: TypeAdapter[WebhookSettings] = TypeAdapter(WebhookSettings)


class DeliveryQuery(Frozen):
    """Which deliveries to list."""

    job: JobId | None = None
    status: DeliveryStatus | None = None
    after: Annotated[str, StringConstraints(max_length=64)] | None = None
    """The `next` of the page before."""
    limit: int = Field(default=50, ge=1, le=500)


async def show(call: Call) -> web.StreamResponse:
    return json_response(webhook_view(await call.services.webhooks.get(call.owner)))


async def configure(call: Call) -> web.StreamResponse:
    settings = await parsing.body(call, SETTINGS)
    webhook, new = await call.services.webhooks.configure(call.owner, settings.url)
    return json_response(webhook_view(webhook, secret=new), 201 if new else 200)


async def rotate(call: Call) -> web.StreamResponse:
    return json_response(webhook_view(await call.services.webhooks.rotate(call.owner), secret=True), 201)


async def deliveries(call: Call) -> web.StreamResponse:
    wanted = parsing.query(call.request, DeliveryQuery)
    page = await call.services.webhooks.deliveries(
        call.owner, job=wanted.job, status=wanted.status, after=wanted.after, limit=wanted.limit
    )
    found = tuple(delivery_view(delivery) for delivery in page.deliveries)
    return json_response(DeliveryList(deliveries=found, next=page.next_cursor))


async def redeliver(call: Call) -> web.StreamResponse:
    event = call.request.match_info["id"]
    return json_response(delivery_view(await call.services.webhooks.redeliver(call.owner, event)), 202)
