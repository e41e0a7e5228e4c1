"""Who is let in."""

import asyncio
from pathlib import Path

from yarl import URL

from tests.fixtures.api import Api, run_api

PUBLIC = ("/healthz", "/readyz", "/metrics", "/openapi.json")
WITH_KEY = [
    ("POST", "/v1/artifacts"),
    ("GET", "/v1/artifacts/x"),
    ("POST", "/v1/quotes"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/x"),
    ("DELETE", "/v1/jobs/x"),
    ("GET", "/v1/jobs/x/events"),
    ("POST", "/v1/models"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x/versions/1"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/usage"),
]


async def test_without_a_key_nothing_is_told(tmp_path: Path) -> None:
    async with run_api(tmp_path, anonymous=False) as api:
        for method, path in WITH_KEY:
            async with api.http.request(method, api.url + path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json(content_type=None))["code"] == "unauthorized"


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
