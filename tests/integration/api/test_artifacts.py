"""Artifacts in and out over HTTP."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from orchestrator.web.call import Limits
from tandem.protocol.errors import NotFound
from tests.fixtures.api import UPLOAD_LIMIT, Api, run_api

DATA = bytes(range(256)) * 10
ID = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


async def test_what_was_uploaded_comes_back(api: Api) -> None:
    status, body = await api.call("POST", "/v1/artifacts", data=DATA, headers={"Content-Type": "video/mp4"})
    assert (status, body) == (201, {"id": ID, "size": len(DATA), "media_type": "video/mp4"})
    async with api.http.get(f"{api.url}/v1/artifacts/{ID}") as response:
        assert await response.read() == DATA
        assert response.headers["ETag"] == f'"{ID}"'
        assert response.headers["Content-Type"] == "video/mp4"
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]


async def test_the_same_again_is_the_same(api: Api) -> None:
    assert await api.upload(DATA) == await api.upload(DATA) == ID
    assert len(api.files()) == 1


async def test_head_tells_without_sending(api: Api) -> None:
    await api.upload(DATA)
    async with api.http.head(f"{api.url}/v1/artifacts/{ID}", headers={"Range": "bytes=0-9"}) as response:
        assert response.status == 206
        assert response.headers["Content-Length"] == "10"
        assert await response.read() == b""


async def test_a_range_is_a_part(api: Api) -> None:
    await api.upload(DATA)
    for wanted, start, end in [("bytes=0-0", 0, 1), ("bytes=100-", 100, 2560), ("bytes=-5", 2555, 2560)]:
        async with api.http.get(f"{api.url}/v1/artifacts/{ID}", headers={"Range": wanted}) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
            assert await response.read() == DATA[start:end]


async def test_a_range_beyond_the_end_is_416(api: Api) -> None:
    await api.upload(DATA)
    async with api.http.get(f"{api.url}/v1/artifacts/{ID}", headers={"Range": "bytes=9999-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"
        assert response.content_type == "application/problem+json"


CONDITIONS: list[tuple[dict[str, str], int]] = [
    ({"Range": "bytes=5-2"}, 200),
    ({"Range": "bytes=0-1,3-4"}, 200),
    ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
    ({"Range": "bytes=0-1", "If-Range": f'"{ID}"'}, 206),
    ({"If-None-Match": f'W/"{ID}", "x"'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"other"'}, 200),
]


async def test_conditions_are_heeded(api: Api) -> None:
    await api.upload(DATA)
    for headers, status in CONDITIONS:
        async with api.http.get(f"{api.url}/v1/artifacts/{ID}", headers=headers) as response:
            assert response.status == status, headers


async def test_what_is_not_there_is_404(api: Api) -> None:
    for path in [f"/v1/artifacts/sha256:{'0' * 64}", "/v1/artifacts/../../etc/passwd", "/v1/artifacts/x"]:
        async with api.http.get(URL(api.url + path, encoded=True)) as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["code"] == "not_found"


async def test_the_media_type_is_kept_if_it_says_something(api: Api) -> None:
    for sent, kept in [
        ("application/x-www-form-urlencoded", "application/octet-stream"),
        ("text/html; charset=utf-8", "text/html"),
        ("nonsense", "application/octet-stream"),
    ]:
        _, body = await api.call("POST", "/v1/artifacts", data=DATA + sent.encode(), headers={"Content-Type": sent})
        assert body["media_type"] == kept


async def test_an_empty_upload_and_a_form_are_refused(api: Api) -> None:
    for data, kind in [(b"", "video/mp4"), (b"--x--", "multipart/form-data; boundary=x")]:
        status, body = await api.call("POST", "/v1/artifacts", data=data, headers={"Content-Type": kind})
        assert (status, body["code"]) == (400, "invalid_request")
    assert api.files() == []


async def test_an_encoded_body_is_refused_rather_than_inflated(api: Api) -> None:
    for path in ("/v1/artifacts", "/v1/jobs"):
        status, body = await api.call("POST", path, data=b"x", headers={"Content-Encoding": "gzip"})
        assert (status, body["code"]) == (400, "invalid_request")
        assert "Content-Encoding" in body["detail"]
    assert api.files() == []


async def test_an_upload_over_the_limit_leaves_nothing(api: Api) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD_LIMIT // 65536 + 1):
            yield bytes(65536)

    for data in (io.BytesIO(bytes(UPLOAD_LIMIT + 1)), pieces()):
        status, body = await api.call("POST", "/v1/artifacts", data=data)
        assert (status, body["code"]) == (413, "too_large")
    assert api.files() == []


async def test_an_upload_that_breaks_off_leaves_nothing(api: Api) -> None:
    url, sent = URL(api.url), bytes(2**21)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST /v1/artifacts HTTP/1.1\r\nHost: {url.authority}\r\nContent-Length: 3000000\r\n\r\n".encode())
    writer.write(sent)
    await writer.drain()
    async with asyncio.timeout(20):
        while not api.files():  # until the server is in the midst of it
            await asyncio.to_thread(api.files)
        writer.transport.abort()
        while api.files():
            await asyncio.to_thread(api.files)
    with pytest.raises(NotFound):
        await api.store.artifact(f"sha256:{hashlib.sha256(sent).hexdigest()}")


async def test_an_upload_that_stalls_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    async with run_api(tmp_path, limits=Limits(idle=0.1)) as api:
        url = URL(api.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"POST /v1/artifacts HTTP/1.1\r\nHost: {url.authority}\r\nContent-Length: 10\r\n\r\nabc".encode())
        assert b" 408 " in await reader.readline()
        assert api.files() == []
        writer.close()
        await writer.wait_closed()
