"""Health, metrics, the document, and errors of no handler's making."""

import asyncio
import json
import logging
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from orchestrator.adapters.store import SqlStore
from orchestrator.web.app import RUNNER_OPTIONS
from orchestrator.web.call import Call
from orchestrator.web.openapi import openapi_path
from orchestrator.web.routes import ROUTES, Access, Route
from tandem.protocol.errors import ERRORS_BY_CODE
from tests.fixtures.api import Api, run_api


async def broken(_call: Call) -> web.StreamResponse:
    raise RuntimeError("a secret")


async def breaks_off(call: Call) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 100
    await response.prepare(call.request)
    raise RuntimeError("a secret")


def route(handler: str) -> Route:
    functions = {"broken": broken, "breaks_off": breaks_off}
    return Route(
        method="GET",
        path=f"/{handler}",
        handler=functions[handler],
        summary="",
        access=Access.PUBLIC,
        answers={200: ""},
    )


async def test_health_and_readiness(api: Api) -> None:
    assert await api.call("GET", "/healthz") == (200, {"status": "ok"})
    assert await api.call("GET", "/readyz") == (200, {"status": "ok"})
    assert isinstance(api.store, SqlStore)
    await api.store._database.write(lambda connection: connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone"))
    assert (await api.call("GET", "/healthz"))[0] == 200
    for path in ("/readyz", "/v2/health/ready"):
        status, body = await api.call("GET", path)
        assert (status, body["code"]) == (503, "unavailable")


async def test_requests_are_counted_by_route(api: Api) -> None:
    for path in ("/v1/jobs/a", "/v1/jobs/b", "/nowhere"):
        await api.call("GET", path)
    async with api.http.get(f"{api.url}/metrics") as response:
        text = await response.text()
        assert response.content_type == "text/plain"
    assert 'tandem_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"} 2.0' in text
    assert 'tandem_http_requests_total{method="any",route="none",status="404"} 1.0' in text


async def test_every_route_is_in_the_document(tmp_path: Path) -> None:
    extra = route("broken")
    async with run_api(tmp_path, extra=[extra]) as api:
        status, document = await api.call("GET", "/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(each.method, openapi_path(each.path)) for each in (*ROUTES, extra)} | {("GET", "/openapi.json")}
    assert all(code in document["info"]["description"] for code in ERRORS_BY_CODE)


async def test_the_document_holds_together(api: Api) -> None:
    _, document = await api.call("GET", "/openapi.json")
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    assert {"JobView", "QuoteView", "Problem", "TranscodeRequest", "InferenceRequest", "NewModel"} <= set(schemas)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    for names in (
        [each["operationId"] for each in operations],
        *([p["name"] for p in o["parameters"]] for o in operations),
    ):
        assert len(set(names)) == len(names)


async def test_the_router_answers_in_problems(api: Api) -> None:
    async with api.http.get(f"{api.url}/v3/nothing") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
        assert await response.json(content_type=None) == {
            "type": "urn:tandem:error:not_found",
            "title": "Not found",
            "status": 404,
            "detail": "expected a path of this API, got another; see /openapi.json",
            "code": "not_found",
        }
    async with api.http.put(f"{api.url}/v1/jobs") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD,POST")
        assert "GET or HEAD or POST" in (await response.json(content_type=None))["detail"]


async def test_an_accident_is_logged_once_and_told_without_details(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_api(tmp_path, extra=[route("broken")]) as api:
        status, body = await api.call("GET", "/broken")
    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in json.dumps(body)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None


async def test_a_response_that_breaks_off_looks_broken(tmp_path: Path) -> None:
    async with run_api(tmp_path, extra=[route("breaks_off")]) as api:
        url = URL(api.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET /breaks_off HTTP/1.1\r\nHost: {url.authority}\r\n\r\n".encode())
        received = await reader.read()
        assert received.startswith(b"HTTP/1.1 200")
        assert received.endswith(b"\r\n\r\n")  # and not one byte of a body
        writer.close()
        await writer.wait_closed()


def test_of_clients_that_went_away_nothing_is_logged_and_of_our_own_faults_all() -> None:
    logger: logging.Logger = RUNNER_OPTIONS["logger"]
    for error, logged in ((ConnectionResetError(), False), (RuntimeError(), True)):
        record = logger.makeRecord("", logging.ERROR, "", 0, "", (), (type(error), error, None))
        assert bool(logger.filter(record)) is logged


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 garbage", b"GET /v1/jobs HTTP/1.1\r\nX-A : b"])
async def test_garbage_is_answered_does_no_harm_and_fills_no_log(
    api: Api, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    url = URL(api.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent + b"\r\n\r\n")
    assert b"400" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert (await api.call("GET", "/healthz"))[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
