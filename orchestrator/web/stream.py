"""A job's events as server-sent events.

`state` and `progress` come as they happen, the present ones at once; `end` is the last, and then the stream is closed.
Each stream begins with the present state, so `Last-Event-ID` needs no memory of what was sent before.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from aiohttp import web
from pydantic import BaseModel

from orchestrator.core.progress import JobProgress
from orchestrator.core.views import progress_view
from orchestrator.service.events import JobEvent, StateChanged, Subscription
from orchestrator.web.call import Call
from orchestrator.web.jobs import job_id
from tandem.protocol.api import StateEvent
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState, is_final

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    # Asks nginx and its kin to pass events on as they come.
    "X-Accel-Buffering": "no",
}
_HEARTBEAT = b": still here\n\n"


async def events(call: Call) -> web.StreamResponse:
    job = job_id(call)
    with call.services.events.subscribe(job) as subscription:
        snapshot = await call.services.jobs.snapshot(job, call.owner)
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(call.request)
        if call.request.method == "HEAD":
            return response
        with suppress(ConnectionError):  # the listener may go at any time
            await _send(response, StateChanged(snapshot.job.state))
            if not is_final(JOB_TRANSITIONS, snapshot.job.state):
                await _send(response, call.services.events.progress(job))
                await _follow(call, response, subscription, job)
            await response.write_eof()
    return response


async def _follow(call: Call, response: web.StreamResponse, subscription: Subscription, job: str) -> None:
    async with aclosing(_news(call, subscription, job)) as news:
        async for event in news:
            if event is None:
                await response.write(_HEARTBEAT)
            elif await _send(response, event):
                return


async def _news(call: Call, subscription: Subscription, job: str) -> AsyncGenerator[JobEvent | None, None]:
    """Events until the hub closes; None where there was none for a while.

    In such a pause the store is asked too: the job may be in the hands of another replica.
    """
    while True:
        try:
            async with asyncio.timeout(call.services.limits.heartbeat):
                event = await subscription.next()
        except TimeoutError:
            yield None
            state = (await call.services.jobs.snapshot(job, call.owner)).job.state
            event = StateChanged(state) if is_final(JOB_TRANSITIONS, state) else call.services.events.progress(job)
        if event is None:
            return
        yield event


async def _send(response: web.StreamResponse, event: JobEvent) -> bool:
    """Writes an event; whether it was the last."""
    match event:
        case StateChanged(state=state):
            await response.write(_event("state", StateEvent(state=state)))
            return await _end(response, state)
        case JobProgress():
            await response.write(_event("progress", progress_view(event)))
            return False


async def _end(response: web.StreamResponse, state: JobState) -> bool:
    final = is_final(JOB_TRANSITIONS, state)
    if final:
        await response.write(_event("end", StateEvent(state=state)))
    return final


def _event(name: str, data: BaseModel) -> bytes:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n".encode()
