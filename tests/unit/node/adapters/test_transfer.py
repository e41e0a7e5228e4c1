"""The artifact transfer, against a real server that can misbehave on cue."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from node.adapters.cache import ArtifactCache
from node.adapters.transfer import HttpTransfer, TransferPolicy
from node.ports import transfer as port
from tandem.clock import SystemClock
from tandem.protocol.errors import ConfigurationError, NoCapacity, TooLarge, TransferFailed

BODY = bytes(range(256)) * 4096
SOURCES, MODELS = port.Shelf.SOURCES, port.Shelf.MODELS
FAST = TransferPolicy(attempts=3, backoff=0.001, stall=0.2)


def id_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Shelf:
    """Serves bodies by name; `breaks` holds, per name, the bytes after which each next connection is cut or stalls."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {"a": BODY}
        self.breaks: dict[str, list[int]] = {}
        self.statuses: list[int] = []
        self.stalling = False
        self.whole = False
        """Whether a range is answered with everything."""
        self.requests: list[web.Request] = []
        self.held = asyncio.Event()
        self.answer: dict[str, Any] | None = None
        self.stored = b""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/{name}", self.get)
        app.router.add_put("/{name}", self.put)
        return app

    async def get(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.statuses and (status := self.statuses.pop(0)):
            return web.Response(status=status, headers={"Location": "http://127.0.0.1:9/elsewhere"})
        name = request.match_info["name"]
        asked = "Range" in request.headers and not self.whole
        start = request.http_range.start or 0 if asked else 0
        body = self.bodies[name][start : request.http_range.stop if asked else None]
        response = web.StreamResponse(status=206 if asked else 200, headers={"Content-Length": str(len(body))})
        if asked:
            response.headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/*"
        await response.prepare(request)
        if self.breaks.get(name):
            await response.write(body[: self.breaks[name].pop(0)])
            self.held.set()
            await self._stop(request)
        else:
            await response.write(body)
        return response

    async def _stop(self, request: web.Request) -> None:
        if self.stalling:
            await asyncio.Event().wait()
        assert request.transport is not None
        request.transport.close()

    async def put(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if self.statuses and (status := self.statuses.pop(0)):
            return web.Response(status=status)
        if self.stalling:
            await asyncio.Event().wait()
        self.stored = await request.read()
        return web.json_response(self.answer or {"id": id_of(self.stored), "size": len(self.stored)})


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def server(shelf: Shelf) -> AsyncIterator[TestServer]:
    server = TestServer(shelf.app())
    await server.start_server(shutdown_timeout=0.1)
    yield server
    await server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def transfer(server: TestServer, folder: Path) -> AsyncIterator[HttpTransfer]:
    async with transfer_to(server, folder) as transfer:
        yield transfer


def transfer_to(server: TestServer, folder: Path, limit: int = 4 * len(BODY)) -> HttpTransfer:
    return HttpTransfer(
        origin=str(server.make_url("/")), cache=ArtifactCache(folder, limit), clock=SystemClock(), policy=FAST
    )


def url(server: TestServer, name: str = "a") -> str:
    return str(server.make_url(f"/{name}?signature=1"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_fetch_downloads_once_and_keeps(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path
) -> None:
    for _ in range(2):
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
            assert path.read_bytes() == BODY
    assert len(shelf.requests) == 1
    assert names(folder) == [hashlib.sha256(BODY).hexdigest()]


async def test_concurrent_fetches_share_one_download(transfer: HttpTransfer, server: TestServer, shelf: Shelf) -> None:
    async def fetch() -> bytes:
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
            return path.read_bytes()

    async with asyncio.TaskGroup() as group:
        fetches = [group.create_task(fetch()) for _ in range(8)]
    assert all(fetch.result() == BODY for fetch in fetches)
    assert len(shelf.requests) == 1


async def test_broken_download_resumes_where_it_stopped(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf
) -> None:
    shelf.breaks["a"] = [300_000]
    async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
        assert path.read_bytes() == BODY
    assert [request.headers.get("Range") is not None for request in shelf.requests] == [False, True]


RANGES = ((0, 1000), (300_000, 700_000), (1_000_000, len(BODY)))


async def test_of_a_piece_only_the_ranges_are_fetched(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path
) -> None:
    shelf.breaks["a"] = [1000, 250_000]
    for _ in range(2):
        async with transfer.fetch_ranges(id_of(BODY), len(BODY), RANGES, url(server)) as path:
            found = path.read_bytes()
    assert len(found) == len(BODY)
    for start, end in RANGES:
        assert found[start:end] == BODY[start:end]
    assert found[1000:300_000].strip(b"\0") == b""
    wanted = ["0-999", "300000-699999", "550000-699999", "1000000-1048575"]
    assert [request.headers["Range"] for request in shelf.requests] == [f"bytes={each}" for each in wanted]
    assert path.stat().st_blocks * 512 < len(BODY)
    ArtifactCache(folder, len(BODY)).open()
    assert names(folder) == []


async def test_a_piece_of_what_is_here_is_not_fetched(transfer: HttpTransfer, server: TestServer, shelf: Shelf) -> None:
    async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
        pass
    async with transfer.fetch_ranges(id_of(BODY), len(BODY), RANGES, url(server)) as path:
        assert path.read_bytes() == BODY
    assert len(shelf.requests) == 1


async def test_a_server_that_knows_no_ranges_gives_no_piece(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path
) -> None:
    shelf.whole = True
    with pytest.raises(TransferFailed, match="expected bytes"):
        async with transfer.fetch_ranges(id_of(BODY), len(BODY), RANGES[1:], url(server)):
            pytest.fail("not what was asked for")
    assert names(folder) == []


async def test_passing_status_is_tried_again(transfer: HttpTransfer, server: TestServer, shelf: Shelf) -> None:
    shelf.statuses = [503, 500]
    async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
        assert path.read_bytes() == BODY


async def test_stalled_body_fails_and_leaves_nothing(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path
) -> None:
    shelf.stalling, shelf.breaks["a"] = True, [1000] * 3
    with pytest.raises(TransferFailed, match="3 attempts"):
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
            pytest.fail("a stalled body must not be used")
    assert names(folder) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [(BODY[:-1] + b"!", "expected sha256:"), (BODY[:-1], "got 1048575"), (BODY + b"!", "got more")],
    ids=["digest", "short", "long"],
)
async def test_wrong_body_is_refused(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path, body: bytes, expected: str
) -> None:
    shelf.bodies["a"] = body
    with pytest.raises(TransferFailed, match=expected):
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
            pytest.fail("a wrong body must not be used")
    assert names(folder) == []


async def test_an_answer_that_is_no_http_is_told_without_the_signed_url(folder: Path, tmp_path: Path) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/9 nonsense\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1") as server:
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        cache = ArtifactCache(folder, len(BODY))
        (tmp_path / "out.mp4").write_bytes(b"x")
        async with HttpTransfer(origin=origin, cache=cache, clock=SystemClock(), policy=FAST) as transfer:
            with pytest.raises(TransferFailed, match="3 attempts") as download:
                async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), f"{origin}/a?signature=secret"):
                    pytest.fail("expected a refusal")
            with pytest.raises(TransferFailed, match="3 attempts") as upload:
                await transfer.upload(tmp_path / "out.mp4", f"{origin}/a?signature=secret")
    assert "secret" not in download.value.detail + upload.value.detail


@pytest.mark.parametrize("status", [302, 307, 403, 404])
async def test_redirects_and_refusals_end_at_once(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, status: int
) -> None:
    shelf.statuses = [status]
    with pytest.raises(TransferFailed, match=f"got {status}"):
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
            pytest.fail("expected a refusal")
    assert len(shelf.requests) == 1


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/a", "http://169.254.169.254/latest", "file:///etc/passwd", "/a", "http://[", "http://u@h:x/"],
)
async def test_other_origins_are_never_asked(transfer: HttpTransfer, address: str, tmp_path: Path) -> None:
    with pytest.raises(TransferFailed, match="expected a URL of"):
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), address):
            pytest.fail("expected a refusal")
    with pytest.raises(TransferFailed, match="expected a URL of"):
        await transfer.upload(tmp_path / "any", address)


@pytest.mark.parametrize("artifact_id", ["sha256:../../etc/passwd", "sha256:" + "A" * 64, "x", "sha256:" + "0" * 65])
async def test_ids_that_are_no_digest_never_become_a_path(
    transfer: HttpTransfer, server: TestServer, artifact_id: str
) -> None:
    with pytest.raises(TransferFailed, match="artifact id"):
        async with transfer.fetch(SOURCES, artifact_id, 1, url(server)):
            pytest.fail("expected a refusal")


async def test_cancelled_download_leaves_nothing_and_the_next_one_works(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, folder: Path
) -> None:
    shelf.stalling, shelf.breaks["a"] = True, [1000]

    async def fetch() -> None:
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
            pytest.fail("the download cannot end")

    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(fetch())
        await shelf.held.wait()
        assert len(names(folder)) == 1
        fetching.cancel()
    assert names(folder) == []
    async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
        assert path.read_bytes() == BODY


async def test_least_recently_used_goes_first_and_never_what_is_in_use(
    server: TestServer, shelf: Shelf, folder: Path
) -> None:
    bodies = {name: name.encode() * 1000 for name in "abcd"}
    shelf.bodies = bodies
    async with transfer_to(server, folder, limit=2500) as transfer:

        async def touch(name: str) -> None:
            async with transfer.fetch(SOURCES, id_of(bodies[name]), 1000, url(server, name)):
                pass

        def held() -> set[str]:
            return {name for name in bodies if hashlib.sha256(bodies[name]).hexdigest() in names(folder)}

        for name in "abac":
            await touch(name)
        assert held() == {"a", "c"}
        async with transfer.fetch(SOURCES, id_of(bodies["a"]), 1000, url(server, "a")):
            await touch("d")
            assert held() == {"a", "d"}
            async with transfer.fetch(SOURCES, id_of(bodies["d"]), 1000, url(server, "d")):
                with pytest.raises(NoCapacity, match="in use"):
                    await touch("b")
        with pytest.raises(TooLarge):
            async with transfer.fetch(SOURCES, id_of(b""), 2501, url(server, "a")):
                pytest.fail("expected a refusal")


async def test_a_restart_keeps_good_files_and_drops_bad_and_partial_ones(
    server: TestServer, shelf: Shelf, folder: Path
) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    sources = folder / "sources"
    sources.mkdir(parents=True)
    (sources / digest).write_bytes(BODY)
    (sources / f"{digest}.partial").write_bytes(b"half")
    async with transfer_to(server, folder) as transfer:
        assert names(folder) == [digest]
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
            assert shelf.requests == []
    (sources / digest).write_bytes(bytes(len(BODY)))
    async with transfer_to(server, folder) as transfer:
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
            assert path.read_bytes() == BODY
        path.unlink()
        async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)) as path:
            assert path.read_bytes() == BODY


async def test_models_lie_apart_from_sources_within_one_bound(server: TestServer, shelf: Shelf, folder: Path) -> None:
    async with transfer_to(server, folder, limit=len(BODY)) as transfer:
        for kind, other in ((SOURCES, MODELS), (MODELS, SOURCES)):
            async with transfer.fetch(kind, id_of(BODY), len(BODY), url(server)) as path:
                assert path.parent == folder / kind
                assert names(folder / other) == []


async def test_another_size_for_a_known_artifact_is_refused(transfer: HttpTransfer, server: TestServer) -> None:
    async with transfer.fetch(SOURCES, id_of(BODY), len(BODY), url(server)):
        pass
    with pytest.raises(TransferFailed, match="as announced"):
        async with transfer.fetch(SOURCES, id_of(BODY), 5, url(server)):
            pytest.fail("expected a refusal")


async def test_upload_sends_the_file_and_checks_the_answer(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "out.mp4"
    file.write_bytes(BODY)
    shelf.statuses = [503]
    assert await transfer.upload(file, url(server)) == (id_of(BODY), len(BODY))
    assert shelf.stored == BODY
    assert shelf.requests[-1].headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize("answer", [{"id": id_of(b"other"), "size": 1}, {"id": id_of(BODY)}, {"size": []}])
async def test_upload_refuses_an_answer_about_something_else(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, tmp_path: Path, answer: dict[str, Any]
) -> None:
    file = tmp_path / "out.mp4"
    file.write_bytes(BODY)
    shelf.answer = answer
    with pytest.raises(TransferFailed, match="as uploaded"):
        await transfer.upload(file, url(server))


async def test_upload_to_a_server_that_does_not_read_fails(
    transfer: HttpTransfer, server: TestServer, shelf: Shelf, tmp_path: Path
) -> None:
    file = tmp_path / "out.mp4"
    file.write_bytes(BODY * 16)
    shelf.stalling = True
    with pytest.raises(TransferFailed, match="3 attempts"):
        await transfer.upload(file, url(server))


async def test_origin_must_be_http(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="http"):
        HttpTransfer(origin="ws://h", cache=ArtifactCache(folder, 1), clock=SystemClock())
