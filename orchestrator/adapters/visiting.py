"""Visits to URLs of submitters: guarded, pinned, bounded.

Every hop has a session of its own, which looks its host up once, has the guard judge all addresses that came, and can
connect to no others. Redirects are followed by hand, so that each is judged like the first. Nothing of one hop goes
with the next: no cookies, no credentials, no referrer; no proxy of the environment is asked.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

from aiohttp import ClientError, ClientResponse, ClientSession, ClientSSLError, ClientTimeout, DummyCookieJar
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import TCPConnector
from yarl import URL

from orchestrator.core.delivery import Answer
from orchestrator.core.guard import Guard
from orchestrator.ports.visiting import Fetched, Part
from tandem.protocol.errors import UrlForbidden, UrlRefused, UrlUnavailable
from tandem.protocol.urls import parse_web_url, web_host

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""From a host's name to its addresses, as text. Raises OSError."""

_OK, _PARTIAL, _REDIRECTED, _NO_SUCH_RANGE = 200, 206, 300, 416
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_CHUNK_BYTES = 2**18
_MAX_DIGITS = 9
_LOOKUPS_AT_ONCE = 8
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "tandem"}


@dataclass(frozen=True, slots=True)
class VisitLimits:
    redirects: int = 5
    stall: float = 30.0
    """Seconds without a byte, and until a response begins."""
    total: float = 3600.0
    """Seconds for the whole visit."""


@asynccontextmanager
async def open_visitor(guard: Guard, limits: VisitLimits) -> AsyncIterator["GuardedVisitor"]:
    # Not the loop's own threads: whoever answers slowly to lookups must not hold up the disk.
    threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="lookup")
    try:
        yield GuardedVisitor(guard, limits, _system_lookup(threads))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class GuardedVisitor:
    """Implements `orchestrator.ports.visiting.Visitor`."""

    def __init__(self, guard: Guard, limits: VisitLimits, lookup: Lookup) -> None:
        self._guard = guard
        self._limits = limits
        self._lookup = lookup

    def check(self, url: str) -> None:
        self._guard.check_url(url)

    @asynccontextmanager
    async def fetch(self, url: str, after: Part | None = None) -> AsyncIterator[Fetched]:
        deadline = asyncio.timeout(self._limits.total)
        try:
            async with deadline, AsyncExitStack() as stack:
                response = await self._follow(stack, url, {**_HEADERS, **_range(after)})
                _check_response(response, after)
                chunks = await stack.enter_async_context(aclosing(_chunks(response)))
                goes_on = after is None or _is_rest(response, after)
                yield Fetched(chunks, response.content_length, response.content_type, _validator(response), goes_on)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise UrlUnavailable(
                f"expected all of the file from {_host(url)} within {self._limits.total:g} s, got a part of it"
            ) from error

    async def _follow(self, stack: AsyncExitStack, url: str, headers: Mapping[str, str]) -> ClientResponse:
        for _ in range(self._limits.redirects + 1):
            response = await self._get(stack, url, headers)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            url = _target(url, response.headers.get("Location"))
        raise UrlRefused(f"expected at most {self._limits.redirects} redirects, got one more, from {_host(url)}")

    async def _get(self, stack: AsyncExitStack, url: str, headers: Mapping[str, str]) -> ClientResponse:
        """The head of one response, its body still to come."""
        with _mapped(_host(url)):
            self._guard.check_url(url)
            session = await stack.enter_async_context(self._session())
            async with asyncio.timeout(self._limits.stall):
                return await stack.enter_async_context(session.get(_exact(url), allow_redirects=False, headers=headers))

    async def put(self, url: str, chunks: AsyncIterator[bytes], size: int, media_type: str) -> None:
        await self._write("PUT", url, chunks, size, media_type)

    async def post_form(self, url: str, fields: Mapping[str, str], chunks: AsyncIterator[bytes], size: int) -> None:
        boundary = secrets.token_hex(16)
        head, tail = _form(fields, boundary)
        body = _enclosed(head, chunks, tail)
        async with aclosing(body):
            whole = len(head) + size + len(tail)
            await self._write("POST", url, body, whole, f"multipart/form-data; boundary={boundary}")

    async def _write(self, method: str, url: str, chunks: AsyncIterator[bytes], size: int, media_type: str) -> None:
        headers = {**_HEADERS, "Content-Length": str(size), "Content-Type": media_type}
        stall = self._limits.stall
        with _mapped(_host(url)):
            self._guard.check_url(url)
            async with (
                asyncio.timeout(self._limits.total),
                asyncio.timeout(stall) as moving,
                self._session() as session,
                aclosing(_while_taken(chunks, moving, stall)) as data,
                session.request(method, _exact(url), data=data, headers=headers, allow_redirects=False) as response,
            ):
                _check_written(response)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        with _mapped(_host(url)):
            self._guard.check_url(url)
            async with (
                asyncio.timeout(seconds),
                self._session() as session,
                session.post(
                    _exact(url), data=body, headers={**_HEADERS, **headers}, allow_redirects=False
                ) as response,
            ):
                return Answer(response.status, _seconds(response.headers.get("Retry-After", "")))

    def _session(self) -> ClientSession:
        connector = TCPConnector(
            resolver=_PinningResolver(self._guard, self._lookup), use_dns_cache=False, force_close=True, limit=1
        )
        return ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_read=self._limits.stall),
            auto_decompress=False,
            trust_env=False,
        )


class _PinningResolver(AbstractResolver):
    """Looks a name up once, has the addresses judged, and says just those from then on."""

    def __init__(self, guard: Guard, lookup: Lookup) -> None:
        self._guard = guard
        self._lookup = lookup
        self._pinned: dict[str, Sequence[str]] = {}

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - whatever came
    ) -> list[ResolveResult]:
        if host not in self._pinned:
            addresses = await self._lookup(host)
            self._guard.check_addresses(host.rstrip("."), addresses)
            self._pinned[host] = addresses
        return [_result(host, address, port) for address in self._pinned[host]]

    async def close(self) -> None:
        self._pinned.clear()


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)


def _system_lookup(threads: ThreadPoolExecutor) -> Lookup:
    def ask(host: str) -> list[str]:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def lookup(host: str) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(threads, ask, host)

    return lookup


def _exact(url: str) -> URL:
    """As it was judged, not a character otherwise: a presigned URL is good in one spelling only."""
    exact = URL(url, encoded=True)
    if ((exact.host or "").rstrip("."), exact.port) != web_host(url):
        raise UrlForbidden(
            "expected a URL whose host can be read in one way only; write it in ASCII (xn--…), as browsers send it"
        )
    return exact


def _target(url: str, location: str | None) -> str:
    """Where a redirect leads."""
    try:
        target = parse_web_url(urljoin(url, location or ""))
    except ValueError as error:
        raise UrlRefused(f"expected {_host(url)} to redirect to an http or https URL, got another one") from error
    if url.startswith("https:") and not target.startswith("https:"):
        raise UrlForbidden(f"expected {_host(url)} to redirect to an https URL as well, got one without TLS")
    return target


def _range(after: Part | None) -> Mapping[str, str]:
    """RFC 9110, 13.1.5 and 14.2."""
    return {} if after is None else {"Range": f"bytes={after.received}-", "If-Range": after.validator}


def _validator(response: ClientResponse) -> str | None:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _check_response(response: ClientResponse, after: Part | None) -> None:
    host, status = response.url.host, response.status
    if status in _TRANSIENT or status >= _SERVER_ERROR:
        raise UrlUnavailable(f"expected the file from {host}, got HTTP {status}")
    if status != _OK and not (after is not None and status in {_PARTIAL, _NO_SUCH_RANGE}):
        raise UrlRefused(f"expected the file from {host}, got HTTP {status}; check the URL and whether it has expired")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UrlRefused(f"expected the file from {host} as it is, got it encoded, as {encoding[:40]!r}")


def _is_rest(response: ClientResponse, after: Part) -> bool:
    expected = f"bytes {after.received}-{after.size - 1}/{after.size}"
    return response.status == _PARTIAL and response.headers.get("Content-Range") == expected


@contextmanager
def _mapped(host: str) -> Iterator[None]:
    """Errors of the network as ours. They name the host alone: the rest of a URL may be a secret."""
    try:
        yield
    except ClientSSLError as error:
        raise UrlRefused(f"expected {host} to prove itself by TLS, got {type(error).__name__}") from error
    except (ClientError, TimeoutError, OSError) as error:
        raise UrlUnavailable(f"expected an answer of {host}, got {type(error).__name__}") from error


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _host(url: str) -> str:
    return web_host(url)[0]


async def _while_taken(
    chunks: AsyncIterator[bytes], moving: asyncio.Timeout, stall: float
) -> AsyncGenerator[bytes, None]:
    """The same; whoever takes them has that many seconds for each, and for the answer."""
    async for chunk in chunks:
        moving.reschedule(asyncio.get_running_loop().time() + stall)
        yield chunk
    moving.reschedule(asyncio.get_running_loop().time() + stall)


def _form(fields: Mapping[str, str], boundary: str) -> tuple[bytes, bytes]:
    """What comes before and after the file (RFC 7578); S3 ignores what follows it."""
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    return ("".join(parts) + file).encode(), f"\r\n--{boundary}--\r\n".encode()


async def _enclosed(head: bytes, chunks: AsyncIterator[bytes], tail: bytes) -> AsyncGenerator[bytes, None]:
    yield head
    async for chunk in chunks:
        yield chunk
    yield tail


def _check_written(response: ClientResponse) -> None:
    host, status = response.url.host, response.status
    if status in _TRANSIENT or status >= _SERVER_ERROR:
        raise UrlUnavailable(f"expected {host} to take the file, got HTTP {status}")
    if not _OK <= status < _REDIRECTED:
        raise UrlRefused(
            f"expected {host} to take the file, got HTTP {status}; check the URL and whether it has expired"
        )


async def _chunks(response: ClientResponse) -> AsyncGenerator[bytes, None]:
    with _mapped(response.url.host or ""):
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            yield chunk
