"""Every error as an RFC 9457 problem, and under /v2 as the Open Inference Protocol has it: raised on purpose, by the
router, or by accident.
"""

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from orchestrator.web.oip.replies import JSON, error_body, error_headers
from tandem.protocol.api import PROBLEM_MEDIA_TYPE, Problem
from tandem.protocol.errors import InvalidRequest, NotFound, TandemError

logger = logging.getLogger(__name__)

STARTED: web.RequestKey[bool] = web.RequestKey("started", bool)
"""Whether the head of the response is out; from then on an error can only cut the connection."""

PROTOCOL_PATH = "/v2"

_SERVER_ERROR = 500
_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    body = problem.model_dump_json().encode()
    return web.Response(body=body, status=problem.status, content_type=PROBLEM_MEDIA_TYPE, headers=headers)


async def mark_started(request: web.Request, _response: web.StreamResponse) -> None:
    request[STARTED] = True


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        raise  # the client has gone: nobody is left to be told
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem and the log the rest
        if STARTED in request:
            return _cut(request, error)
        if request.path.startswith(PROTOCOL_PATH):
            return _protocol_error(_answer(error))
        return _answer(error)


def _protocol_error(problem: web.Response) -> web.Response:
    """The same, as clients of the Open Inference Protocol know errors."""
    assert isinstance(problem.body, bytes)  # noqa: S101 - as `problem_response` makes them
    said = Problem.model_validate_json(problem.body)
    headers = {name: value for name, value in problem.headers.items() if name in _KEPT}
    body = error_body(said.code, said.detail)
    return web.Response(body=body, status=problem.status, content_type=JSON, headers=headers)


def _answer(error: Exception) -> web.Response:
    match error:
        case TandemError():
            if error.status >= _SERVER_ERROR and not error.retryable:
                logger.error("request failed", exc_info=error)
            return problem_response(Problem.of(error.code, error.detail, error.status), error_headers(error))
        case web.HTTPException():
            return _from_router(error)
        case web.RequestPayloadError():
            return problem_response(Problem.of(InvalidRequest.code, "expected a whole body, got a broken one"))
        case TimeoutError():
            detail = "expected the transfer to go on, got nothing for too long; send it again"
            return problem_response(Problem.of(InvalidRequest.code, detail, 408))
        case _:
            logger.error("request failed", exc_info=error)
            return problem_response(Problem.of(TandemError.code, "an unexpected error; it has been logged"))


def _from_router(error: web.HTTPException) -> web.Response:
    code = NotFound.code if isinstance(error, web.HTTPNotFound) else InvalidRequest.code
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return problem_response(Problem.of(code, _detail(error), error.status), headers)


def _detail(error: web.HTTPException) -> str:
    match error:
        case web.HTTPNotFound():
            return "expected a path of this API, got another; see /openapi.json"
        case web.HTTPMethodNotAllowed():
            return f"expected {' or '.join(sorted(error.allowed_methods))} on this path, got {error.method}"
        case _:
            return error.reason


def _cut(request: web.Request, error: Exception) -> web.StreamResponse:
    """Ends the connection, so that the client sees that the body is not whole."""
    logger.error("response broken off", exc_info=error)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
