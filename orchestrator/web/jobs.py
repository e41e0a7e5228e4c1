"""Quotes and jobs."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, StringConstraints, TypeAdapter

from orchestrator.web import parsing
from orchestrator.web.call import Call, json_response
from tandem.protocol.errors import InvalidRequest, NotFound
from tandem.protocol.ids import Frozen, JobId
from tandem.protocol.jobs import AnyRequest, JobRequest, JobState

REQUEST: TypeAdapter[AnyRequest] = TypeAdapter(JobRequest)

_ID: TypeAdapter[str] = TypeAdapter(JobId)
_MAX_KEY = 255


class PageQuery(Frozen):
    """Which jobs to list."""

    state: JobState | None = None
    after: Annotated[str, StringConstraints(max_length=64)] | None = None
    """The `next` of the page before."""
    limit: int = Field(default=50, ge=1, le=500)


async def quote(call: Call) -> web.StreamResponse:
    request = await parsing.body(call, REQUEST)
    return json_response(await call.services.submissions.quote(request, call.owner))


async def submit(call: Call) -> web.StreamResponse:
    key = _idempotency_key(call.request)
    request = await parsing.body(call, REQUEST)
    job = await call.services.submissions.submit(request, call.owner, key)
    view = await call.services.jobs.view(job, call.owner)
    return json_response(view, 201, {"Location": f"/v1/jobs/{job}"})


async def show(call: Call) -> web.StreamResponse:
    return json_response(await call.services.jobs.view(job_id(call), call.owner))


async def explain(call: Call) -> web.StreamResponse:
    return json_response(await call.services.jobs.explain(job_id(call), call.owner))


async def page(call: Call) -> web.StreamResponse:
    wanted = parsing.query(call.request, PageQuery)
    jobs = call.services.jobs
    return json_response(await jobs.page(call.owner, state=wanted.state, after=wanted.after, limit=wanted.limit))


async def cancel(call: Call) -> web.StreamResponse:
    return json_response(await call.services.jobs.cancel(job_id(call), call.owner))


async def retry(call: Call) -> web.StreamResponse:
    job = job_id(call)
    await call.services.retries.retry(job, call.owner)
    return json_response(await call.services.jobs.view(job, call.owner))


def job_id(call: Call) -> str:
    """The job in the path; raises NotFound."""
    found = parsing.path_value(call.request, "id", _ID)
    if found is None:
        raise NotFound(f"expected a job's id, got {call.request.match_info['id']!r}")
    return found


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= _MAX_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"Idempotency-Key: expected 1 to {_MAX_KEY} printable ASCII characters")
    return key
