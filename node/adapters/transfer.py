"""Artifacts between the orchestrator and this machine, over HTTP, streamed in both directions.

The orchestrator says which URLs to use, and is not trusted with more than that: a URL of any other origin and every
redirect is refused, so that it cannot send the node to addresses inside the node's own network.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
)
from yarl import URL

from node.adapters.cache import ArtifactCache
from node.ports.transfer import Shelf
from tandem.clock import Clock
from tandem.protocol.errors import ConfigurationError, NoCapacity, TransferFailed
from tandem.protocol.jobs import ByteRange

_CHUNK = 2**18
_MAX_ANSWER = 2**16
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class TransferPolicy:
    """How long a transfer is waited for: a minute without an orchestrator, as while it starts anew, costs no work."""

    attempts: int = 10
    backoff: float = 0.5
    """Seconds before the second attempt; doubled before each one after."""
    backoff_max: float = 15
    stall: float = 30
    """Seconds without a byte after which the connection counts as broken."""


class _Broken(Exception):
    """The transfer failed in a way that may pass."""


class HttpTransfer:
    """The Transfer port over one HTTP session with the orchestrator at `origin` (`http://host:port`)."""

    def __init__(
        self, *, origin: str, cache: ArtifactCache, clock: Clock, policy: TransferPolicy | None = None
    ) -> None:
        self._origin = _origin(origin)
        self._cache = cache
        self._clock = clock
        self._policy = policy or TransferPolicy()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._cache.open)
        self._session = ClientSession(
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            read_bufsize=_CHUNK,
            timeout=ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=self._policy.stall),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def fetch(self, shelf: Shelf, artifact_id: str, size: int, url: str) -> AbstractAsyncContextManager[Path]:
        """The artifact as a local file, kept while the context lasts.

        Raises TransferFailed, TooLarge for more than the cache can hold, NoCapacity if all of it is in use.
        """

        async def download(path: Path) -> None:
            try:
                with path.open("wb") as file:
                    await self._download(_Download(file, artifact_id, size), self._allowed(url))
            except OSError as error:
                raise NoCapacity(f"expected to write {path.name}: {error}; free some disk space") from error

        return self._cache.use(shelf, artifact_id, size, download)

    @asynccontextmanager
    async def fetch_ranges(
        self, artifact_id: str, size: int, ranges: Sequence[ByteRange], url: str
    ) -> AsyncIterator[Path]:
        """As the port says. A piece is kept under a digest of what it is a piece of."""
        if self._cache.holds(Shelf.SOURCES, artifact_id):
            async with self.fetch(Shelf.SOURCES, artifact_id, size, url) as path:
                yield path
            return

        async def download(path: Path) -> None:
            try:
                with path.open("wb") as file:
                    file.truncate(size)
                    for start, end in ranges:
                        await self._download(_Piece(file, start, end), self._allowed(url))
            except OSError as error:
                raise NoCapacity(f"expected to write {path.name}: {error}; free some disk space") from error

        name = hashlib.sha256(f"{artifact_id} {list(ranges)}".encode()).hexdigest()
        needed = sum(end - start for start, end in ranges)
        async with self._cache.use(Shelf.PIECES, f"sha256:{name}", needed, download) as path:
            yield path

    async def upload(self, path: Path, url: str) -> tuple[str, int]:
        """Streams a file to a signed URL: its artifact id and size in bytes. Raises TransferFailed."""
        target = self._allowed(url)
        async for _ in self._attempts():
            try:
                return await self._put(path, target)
            except (ClientError, TimeoutError, _Broken) as error:
                broken: Exception = error
        raise TransferFailed(
            f"{target.path}: no upload in {self._policy.attempts} attempts: {_reason(broken)}"
        ) from broken

    async def _attempts(self) -> AsyncIterator[int]:
        for number in range(self._policy.attempts):
            if number:
                await self._clock.sleep(min(self._policy.backoff_max, self._policy.backoff * 2 ** (number - 1)))
            yield number

    def _allowed(self, url: str) -> URL:
        try:
            parsed = URL(url)
            origin = parsed.origin()
        except ValueError as error:
            raise TransferFailed(f"expected a URL of {self._origin}, got none: {error}") from error
        if origin != self._origin:
            raise TransferFailed(f"expected a URL of {self._origin}, got one of {origin}: refused")
        return parsed

    async def _download(self, download: "_Download", url: URL) -> None:
        async for _ in self._attempts():
            try:
                await self._get(download, url)
            except (ClientError, TimeoutError, _Broken) as error:
                broken: Exception = error
            else:
                download.check()
                return
        raise TransferFailed(
            f"{url.path}: no download in {self._policy.attempts} attempts, got {download.received} of "
            f"{download.size} bytes: {_reason(broken)}"
        ) from broken

    async def _get(self, download: "_Download", url: URL) -> None:
        if download.received == download.size:
            return
        headers = {"Range": wanted} if (wanted := download.range) else {}
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            _check_status(response, HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
            if not _continues(response, download.offset):
                download.restart()
            async for chunk in response.content.iter_chunked(_CHUNK):
                download.write(chunk)
        if download.received < download.size:
            raise _Broken(f"expected {download.size} bytes, got {download.received}")

    async def _put(self, path: Path, url: URL) -> tuple[str, int]:
        size = (await asyncio.to_thread(path.stat)).st_size
        hasher = hashlib.sha256()
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        async with (
            asyncio.timeout(self._policy.stall) as deadline,
            _body(path, hasher, deadline, self._policy.stall) as body,
            self._session.put(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            _check_status(response, HTTPStatus.OK, HTTPStatus.CREATED)
            answer = await _read(response)
        artifact_id = f"sha256:{hasher.hexdigest()}"
        if _parse(answer) != (artifact_id, size):
            raise TransferFailed(
                f"{url.path}: expected {artifact_id} of {size} bytes as uploaded, got {answer[:200]!r}"
            )
        return artifact_id, size


class _Download:
    """The bytes of one artifact on their way into a file.

    Hashing and writing happen in the loop: a chunk takes a fraction of a millisecond, not worth a thread's hop.
    """

    def __init__(self, file: BinaryIO, artifact_id: str, size: int) -> None:
        self.size = size
        self.received = 0
        self._file = file
        self._id = artifact_id
        self._hasher = hashlib.sha256()

    @property
    def offset(self) -> int:
        """Of the next byte in the artifact."""
        return self.received

    @property
    def range(self) -> str:
        """To be asked for; empty: all of it."""
        return f"bytes={self.received}-" if self.received else ""

    def write(self, chunk: bytes) -> None:
        self.received += len(chunk)
        if self.received > self.size:
            raise TransferFailed(f"{self._id}: expected {self.size} bytes as announced, got more")
        self._hasher.update(chunk)
        self._file.write(chunk)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.received, self._hasher = 0, hashlib.sha256()

    def check(self) -> None:
        digest = f"sha256:{self._hasher.hexdigest()}"
        if digest != self._id:
            raise TransferFailed(f"expected {self._id}, got {digest}")


class _Piece(_Download):
    """A range of an artifact, from `start` up to `end` (exclusive), on its way to the same place of a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        super().__init__(file, f"bytes {start} to {end}", end - start)
        self._start, self._end = start, end
        file.seek(start)

    @property
    def offset(self) -> int:
        return self._start + self.received

    @property
    def range(self) -> str:
        return f"bytes={self.offset}-{self._end - 1}"

    def restart(self) -> None:
        raise TransferFailed(f"expected {self.range} of the source, got the whole")

    def check(self) -> None:
        """Only the whole has a digest."""


def _reason(error: Exception) -> str:
    """Without the URL, which is signed: aiohttp puts it into what it says of an answer."""
    kind = type(error).__name__
    return kind if isinstance(error, ClientResponseError | InvalidURL) else f"{kind}: {error}"


def _origin(text: str) -> URL:
    url = URL(text)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError(f"expected the orchestrator as http(s)://host[:port], got {text!r}")
    return url.origin()


def _check_status(response: ClientResponse, *expected: HTTPStatus) -> None:
    """Raises _Broken for what may pass, TransferFailed for the rest; redirects are among the rest."""
    if response.status in expected:
        return
    message = f"{response.url.path}: expected status {expected[0].value}, got {response.status}"
    if response.status in _PASSING or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _Broken(message)
    raise TransferFailed(message)


async def _read(response: ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(_MAX_ANSWER):
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise TransferFailed(f"{response.url.path}: expected an answer of at most {_MAX_ANSWER} bytes, got more")
    return body


def _continues(response: ClientResponse, received: int) -> bool:
    """Whether the body begins where we left off; a server may answer a Range with the whole."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        if response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            return True
        raise TransferFailed(f"{response.url.path}: expected the range from {received}, got another")
    return received == 0


@asynccontextmanager
async def _body(
    path: Path, hasher: Any, deadline: asyncio.Timeout, stall: float
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The file in chunks, hashed as it goes; each chunk taken puts the deadline off."""

    async def chunks() -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            yield chunk
            deadline.reschedule(loop.time() + stall)

    with path.open("rb") as file:
        yield chunks()


def _parse(answer: bytes) -> tuple[str, int] | None:
    try:
        fields = json.loads(answer)
        return fields["id"], fields["size"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
