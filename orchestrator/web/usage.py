"""What a submitter used on line."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, StringConstraints

from orchestrator.core.views import usage_view
from orchestrator.web import parsing
from orchestrator.web.call import Call, json_response
from tandem.protocol.api import UsageList
from tandem.protocol.errors import InvalidRequest
from tandem.protocol.ids import Frozen


class UsageQuery(Frozen):
    """Which page of usage to list."""

    after: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The `next` of the page before."""
    limit: int = Field(default=50, ge=1, le=500)


async def page(call: Call) -> web.StreamResponse:
    wanted = parsing.query(call.request, UsageQuery)
    try:
        found = await call.services.usage(call.owner, wanted.after, wanted.limit)
    except ValueError as error:
        raise InvalidRequest(f"after: {error}") from error
    return json_response(UsageList(usage=tuple(map(usage_view, found.records)), next=found.next_cursor))
