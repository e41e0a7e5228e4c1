"""Visits to servers that are real, and mean ill."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from orchestrator.adapters.visiting import GuardedVisitor, VisitLimits, _target, open_visitor
from orchestrator.core.guard import Guard
from tandem.protocol.errors import TandemError, UrlForbidden, UrlRefused, UrlUnavailable
from tests.fixtures.origin import Origin, answer, redirect, run_origin

ANY_PORT = frozenset(range(1, 2**16))
HERE = Guard(ANY_PORT, (ip_network("127.0.0.1/32"),))
"""The servers are on this machine; 127.0.0.2 stands for what is private."""
LIMITS = VisitLimits(redirects=3, stall=20, total=40)


class Names:
    """A name server that answers each question with the next of its answers."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with run_origin() as running:
        yield running


async def fetch(url: str, names: Names | None = None, limits: VisitLimits = LIMITS, guard: Guard = HERE) -> bytes:
    visitor = GuardedVisitor(guard, limits, names or Names(["127.0.0.1"]))
    async with visitor.fetch(url) as fetched:
        return b"".join([chunk async for chunk in fetched.chunks])


async def test_a_file_comes_with_what_is_said_of_it(origin: Origin) -> None:
    origin.pages["/clip.mp4"] = answer(b"bytes", "Content-Type: video/mp4; x=y", "Set-Cookie: a=b")
    url = origin.url("/clip.mp4?sig=%7E%2f", "files.example")
    async with GuardedVisitor(HERE, LIMITS, Names(["127.0.0.1"])).fetch(url) as fetched:
        assert (fetched.size, fetched.media_type) == (5, "video/mp4")
        assert [chunk async for chunk in fetched.chunks] == [b"bytes"]
    (head,) = origin.heads
    assert head.startswith("GET /clip.mp4?sig=%7E%2f HTTP/1.1\r\n")
    assert "accept-encoding: identity" in head.lower()


async def test_redirects_are_followed_and_nothing_goes_with_them(origin: Origin) -> None:
    origin.pages["/a"] = redirect("/b", "302 Found", "Set-Cookie: session=secret")
    origin.pages["/b"] = redirect(origin.url("/c", "other.example"), "307 Temporary Redirect")
    origin.pages["/c"] = answer(b"there")
    assert await fetch(origin.url("/a", "files.example")) == b"there"
    for head in origin.heads:
        assert not any(word in head.lower() for word in ("cookie", "referer", "authorization"))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/",
        "http://2130706434:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
    ],
)
async def test_a_redirect_to_a_private_address_is_refused(origin: Origin, target: str) -> None:
    origin.pages["/"] = redirect(target.format(port=origin.port))
    with pytest.raises(UrlForbidden):
        await fetch(origin.url("/"))
    assert len(origin.heads) == 1


async def test_a_redirect_to_a_private_name_or_port_is_refused(origin: Origin) -> None:
    origin.pages["/"] = redirect(origin.url("/secret", "internal.example"))
    with pytest.raises(UrlForbidden, match=r"internal\.example is neither"):
        await fetch(origin.url("/", "files.example"), Names(["127.0.0.1"], ["10.0.0.1"]))
    origin.pages["/"] = redirect("http://files.example:22/")
    guard = Guard(frozenset({origin.port}), HERE.allowed)
    with pytest.raises(UrlForbidden, match="port 22"):
        await fetch(origin.url("/", "files.example"), guard=guard)
    assert len(origin.heads) == 2


async def test_a_name_is_asked_for_once_so_that_it_cannot_turn_private(origin: Origin) -> None:
    origin.pages["/"] = answer(b"public")
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    assert await fetch(origin.url("/", "rebind.example"), names) == b"public"
    assert names.asked == ["rebind.example"]


@pytest.mark.parametrize("private", ["127.0.0.2", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%1"])
async def test_one_private_address_among_public_ones_condemns_the_name(origin: Origin, private: str) -> None:
    with pytest.raises(UrlForbidden):
        await fetch(origin.url("/", "mixed.example"), Names(["127.0.0.1", private]))
    assert origin.heads == []


REFUSED: list[tuple[str, tuple[str, ...], type[TandemError], str]] = [
    ("404 Not Found", (), UrlRefused, "HTTP 404"),
    ("403 Forbidden", (), UrlRefused, "HTTP 403"),
    ("204 No Content", (), UrlRefused, "HTTP 204"),
    ("429 Too Many Requests", (), UrlUnavailable, "HTTP 429"),
    ("503 Service Unavailable", (), UrlUnavailable, "HTTP 503"),
    ("200 OK", ("Content-Encoding: gzip",), UrlRefused, "gzip"),
    ("302 Found", (), UrlRefused, "one more"),
    ("302 Found", ("Location: ftp://x/",), UrlRefused, "redirect to an http"),
    ("302 Found", ("Location: http://me:pw@x/",), UrlRefused, "redirect to an http"),
]


@pytest.mark.parametrize(("status", "headers", "error", "said"), REFUSED)
async def test_what_is_not_the_file_is_refused(
    origin: Origin, status: str, headers: tuple[str, ...], error: type[TandemError], said: str
) -> None:
    origin.pages["/"] = answer(b"", *headers, status=status)
    with pytest.raises(error, match=said):
        await fetch(origin.url("/"))


async def test_redirects_end(origin: Origin) -> None:
    origin.pages["/"] = redirect("/")
    with pytest.raises(UrlRefused, match="at most 3 redirects"):
        await fetch(origin.url("/"))
    assert len(origin.heads) == 4


async def test_a_part_of_a_file_is_not_a_file(origin: Origin) -> None:
    origin.pages["/"] = answer(b"half", length=8)
    with pytest.raises(UrlUnavailable, match="ClientPayloadError"):
        await fetch(origin.url("/"))


async def test_a_server_that_stalls_is_left(origin: Origin) -> None:
    origin.pages["/"] = origin.endless(b"first")
    with pytest.raises(UrlUnavailable, match="Timeout"):
        await fetch(origin.url("/"), limits=VisitLimits(stall=0.1, total=30))


async def test_a_server_that_takes_no_more_is_left() -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(2**20)

    left = asyncio.Event()

    async def stop(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.wait()
        writer.close()

    async with await asyncio.start_server(stop, "127.0.0.1", 0, limit=1024) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        visitor = GuardedVisitor(HERE, VisitLimits(stall=0.2, total=30), Names(["127.0.0.1"]))
        with pytest.raises(UrlUnavailable, match="Timeout"):
            await visitor.put(url, much(), 2**26, "video/mp4")
        left.set()


async def test_a_server_that_drips_is_left(origin: Origin) -> None:
    origin.pages["/"] = origin.endless(b"", drip=b"x")
    with pytest.raises(UrlUnavailable, match=r"within 0\.3 s"):
        await fetch(origin.url("/"), limits=VisitLimits(stall=30, total=0.3))


async def test_a_server_that_drips_its_headers_is_left(origin: Origin) -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    origin.pages["/"] = drip
    with pytest.raises(UrlUnavailable, match="TimeoutError"):
        await fetch(origin.url("/"), limits=VisitLimits(stall=0.2, total=30))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UrlUnavailable, match=r"of 127\.0\.0\.1, got ClientConnectorError"):
        await fetch("http://127.0.0.1:1/secret")


async def test_a_name_that_is_unknown_is_unavailable() -> None:
    async with open_visitor(HERE, LIMITS) as visitor:
        with pytest.raises(UrlUnavailable):
            async with visitor.fetch("http://nobody.invalid/"):
                pass


async def test_the_system_is_asked_for_names_and_its_answer_is_judged() -> None:
    async with open_visitor(Guard(ANY_PORT), LIMITS) as visitor:
        with pytest.raises(UrlForbidden, match="localhost"):
            async with visitor.fetch("http://localhost/"):
                pass


def test_tls_is_not_given_up_on_the_way() -> None:
    assert _target("https://a/b", "c") == "https://a/c"
    assert _target("http://a/b", "https://c/") == "https://c/"
    with pytest.raises(UrlForbidden, match="without TLS"):
        _target("https://a/b", "http://a/b")


@asynccontextmanager
async def run_tls(folder: Path) -> AsyncIterator[int]:
    """A server whose certificate nobody signed but itself."""
    names = ["-keyout", str(folder / "key"), "-out", str(folder / "cert"), "-subj", "/CN=files.example"]
    await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_certificate_is_verified(tmp_path: Path) -> None:
    async with run_tls(tmp_path) as port:
        with pytest.raises(UrlRefused, match="ClientConnectorCertificateError"):
            await fetch(f"https://files.example:{port}/", limits=VisitLimits())
