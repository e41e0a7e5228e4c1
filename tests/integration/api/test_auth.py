"""Who is let in."""

import asyncio
import re
from pathlib import Path

from yarl import URL

from orchestrator.web.openapi import openapi_path
from orchestrator.web.routes import ROUTES, Access, Route
from tests.conformance.store.samples import digest, job_number
from tests.fixtures.api import Api, run_api

PUBLIC = ("/healthz", "/readyz", "/metrics", "/openapi.json")
OPEN = {("GET", path) for path in (*PUBLIC, "/v2", "/v2/health/live", "/v2/health/ready")} - {("GET", "/openapi.json")}
FOLDER = f"/v1/folders/{job_number(1)}/9999999999/{'0' * 64}/master.m3u8"
SIGNED = [
    ("GET", f"/v1/node/artifacts/{digest(1)}?expires=9999999999&signature=%FF"),
    ("PUT", f"/v1/node/attempts/{job_number(1)}.0/1/outputs/720p"),
    ("GET", FOLDER),
]


def example(route: Route) -> tuple[str, str]:
    """A request that the route takes."""
    return route.method, re.sub(r"[{}]", "", openapi_path(route.path))


async def test_without_a_key_nothing_is_told(tmp_path: Path) -> None:
    async with run_api(tmp_path, anonymous=False) as api:
        for method, path in (example(route) for route in ROUTES if route.access is Access.KEY):
            async with api.http.request(method, api.url + path, data=b"" if method == "POST" else None) as response:
                assert (response.status, path) == (401, path)
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json(content_type=None))["code"] == "unauthorized"


async def test_what_needs_no_key_needs_a_signature_or_is_listed_here(tmp_path: Path) -> None:
    public = {(route.method, route.path) for route in ROUTES if route.access is Access.PUBLIC}
    assert {(method, path) for method, path in public if method != "OPTIONS"} == OPEN
    assert len(SIGNED) == sum(route.access is Access.SIGNATURE for route in ROUTES)
    async with run_api(tmp_path, anonymous=False) as api:
        for method, path in SIGNED:
            status, body = await api.call(method, URL(api.url + path, encoded=True).path_qs)
            assert (status, body["code"]) == (403, "forbidden"), path


async def test_what_is_public_needs_no_key(tmp_path: Path) -> None:
    async with run_api(tmp_path, anonymous=False) as api:
        for path in PUBLIC:
            async with api.http.get(api.url + path) as response:
                assert response.status == 200


async def test_a_key_is_good_until_it_is_revoked(tmp_path: Path) -> None:
    async with run_api(tmp_path, anonymous=False) as api:
        record, text = await api.keys.create("somebody")
        assert text.startswith("tdm_")
        headers = {"Authorization": f"bearer {text}"}
        assert (await api.call("GET", "/v1/jobs", headers=headers))[0] == 200
        assert [(key.id, key.name) for key in await api.keys.all()] == [(record.id, "somebody")]
        await api.keys.revoke(record.id)
        assert (await api.call("GET", "/v1/jobs", headers=headers))[0] == 401


async def test_a_wrong_key_is_refused_even_where_none_is_needed(api: Api) -> None:
    for header in ["Bearer tdm_wrong", "Bearer ", "Basic dXNlcjpwYXNz", "tdm_x", "Bearer é"]:
        status, body = await api.call("GET", "/v1/jobs", headers={"Authorization": header})
        assert (status, body["code"]) == (401, "unauthorized")


async def test_this_machine_needs_no_key_where_the_settings_say_so(api: Api) -> None:
    assert (await api.call("GET", "/v1/jobs"))[0] == 200
    same = api.url.removeprefix("http://")
    assert (await api.call("GET", "/v1/jobs", headers={"Origin": f"http://{same}"}))[0] == 200
    assert (await api.call("GET", "/v1/jobs", headers={"Host": "localhost:80"}))[0] == 200


NOT_LOCAL: list[dict[str, str]] = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"Forwarded": "for=10.0.0.1"},
    {"X-Real-IP": "10.0.0.1"},
    {"Via": "1.1 proxy"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Host": "evil.example"},
    {"Host": "[::"},
]


async def test_what_a_proxy_or_a_foreign_page_sends_is_not_local(api: Api) -> None:
    for headers in NOT_LOCAL:
        status, body = await api.call("GET", "/v1/jobs", headers=headers)
        assert (status, body["code"]) == (401, "unauthorized"), headers


async def test_a_key_of_any_bytes_is_refused(api: Api) -> None:
    url = URL(api.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"GET /v1/jobs HTTP/1.1\r\nHost: {url.authority}\r\nAuthorization: Bearer ".encode()
    writer.write(head + b"\xff\xfe\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
