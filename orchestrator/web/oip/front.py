"""The first reader of every connection: requests for inferences are answered here, all others go to aiohttp.

An inference of a fraction of a millisecond leaves no room for a general server: what is done here for a request are one
look at its head, one task, one write. Bodies are read straight into the memory that tensors are views of. Everything
that is not a plain request for an inference (`head`) is handed to aiohttp's protocol with the connection itself. Where
the Open Inference Protocol's other paths are asked for, aiohttp is told to close the connection after the answer, since
clients that ask for a model's description ask for inferences next, which ought to come here.

The bounds of time of a connection are looked after by one sweep a second over all of them, so that they cost a request
nothing.
"""

import asyncio
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from orchestrator.web.oip import head as heads
from orchestrator.web.oip.head import Head, parse_head
from orchestrator.web.oip.inferences import Inferences
from orchestrator.web.oip.memory import Claim, Memory
from orchestrator.web.oip.replies import Reply, error_reply
from tandem.protocol.errors import ConfigurationError

Owner = Callable[[dict[str, str], str], Awaitable[str]]
"""From a request's headers and the peer's address to whose it is. Raises Unauthorized."""

_SCRATCH_BYTES = 2**16
_MAPPED_BYTES = 2**20
"""A larger body lies in pages of its own, which take memory only as they fill and go back to the system at the end.
For a smaller one, new pages for each request would cost more than that is worth."""
_JOINED_BYTES = 2**16
_SWEEP_SECONDS = 1.0
_NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = "Connection: close\r\n"
_PROTOCOL = (b"POST /v2", b"GET /v2", b"HEAD /v2")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a connection may take over things, in seconds."""

    keep_alive: float = 75.0
    """Between requests, and for the head of one."""
    grace: float = 30.0
    """For a body or an answer to pass, and beyond that:"""
    bytes_per_second: int = 2**18
    linger: float = 5.0
    """For what is still on its way when a request was refused."""

    def transfer(self, size: int) -> float:
        return self.grace + size / self.bytes_per_second


class Hub:
    """All connections of one server."""

    def __init__(self, inferences: Inferences, owner: Owner, memory: Memory, pace: Pace | None = None) -> None:
        self.inferences = inferences
        self.owner = owner
        self.memory = memory
        self.pace = pace or Pace()
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        """Read into and emptied within one callback of the event loop; so one is enough for all connections."""
        self.connections: set[Front] = set()
        self.closing = False
        self._sweeping: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def serve(
        self, host: str, port: int, others: Callable[[], asyncio.BaseProtocol], grace: float = 10.0
    ) -> AsyncIterator[asyncio.Server]:
        """Listens; `others` makes protocols for what is no plain inference. Raises ConfigurationError if it cannot.

        At the end what is under way has `grace` seconds.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await self._listen(loop, host, port, others)
        except OSError as error:
            raise ConfigurationError(
                f"expected to listen on {host}:{port}: {error.strerror}; choose another http.host or http.port"
            ) from error
        self._sweep(loop)
        try:
            yield server
        finally:
            self.closing = True
            server.close()
            await self._end(grace)
            if self._sweeping is not None:
                self._sweeping.cancel()

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int, others: Callable[[], asyncio.BaseProtocol]
    ) -> asyncio.Server:
        return await loop.create_server(
            lambda: Front(self, loop, cast("Callable[[], asyncio.Protocol]", others)), host, port, backlog=1024
        )

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [each for each in self.connections if each.deadline < now]:
            connection.expire()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    async def _end(self, grace: float) -> None:
        running = [each.serving for each in self.connections if each.serving is not None]
        for connection in [each for each in self.connections if each.serving is None]:
            connection.close()
        if running:
            await asyncio.wait(running, timeout=grace)
        for connection in list(self.connections):
            connection.close()


class Front(asyncio.BufferedProtocol):
    """One connection: a request is read, answered, and then the next one is."""

    __slots__ = (
        "_body",
        "_came",
        "_drained",
        "_filled",
        "_hub",
        "_left",
        "_loop",
        "_others",
        "_paused",
        "_peer",
        "_pending",
        "_transport",
        "_whole",
        "deadline",
        "serving",
    )

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, others: Callable[[], asyncio.Protocol]) -> None:
        self._hub = hub
        self._loop = loop
        self._others = others
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._pending = b""
        """What has come beyond the request that is being served, or is less than a head."""
        self._peer = ""
        self._came = False
        """Whether the whole body of the request that is being served was read."""
        self._body: memoryview | None = None
        """What is being read into, if a body is awaited."""
        self._filled = 0
        self._whole: asyncio.Future[None] | None = None
        """The body has come."""
        self._left = 0
        """Bytes to drop before the connection is closed."""
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self.serving: asyncio.Task[None] | None = None
        self.deadline = loop.time() + hub.pace.keep_alive

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._hub.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._hub.connections.discard(self)
        if self.serving is not None:
            self.serving.cancel()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._hub.scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, size: int) -> None:
        if self._body is not None:
            self._filled += size
            if self._filled == len(self._body):
                self._body = None
                _settle(self._whole)
        elif self._left:
            self._left -= size
            if self._left <= 0:
                self._transport.close()
        else:
            self._received(bytes(self._hub.scratch[:size]))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        _settle(self._drained)

    # What the hub calls.

    def expire(self) -> None:
        """It has taken too long over what it was about."""
        self.deadline = self._loop.time() + self._hub.pace.linger
        if self._body is not None and self._whole is not None and not self._whole.done():
            self._whole.set_exception(TimeoutError())
        else:
            self._transport.abort()

    def close(self) -> None:
        if self.serving is None:
            self._transport.close()
        else:
            self._transport.abort()

    # Requests.

    def _received(self, data: bytes) -> None:
        self._pending = self._pending + data if self._pending else data
        if self.serving is None:
            self._next()
        elif len(self._pending) > _SCRATCH_BYTES:
            self._transport.pause_reading()  # it sends requests before it has answers; they wait in its own system

    def _next(self) -> None:
        data = self._pending
        end = data.find(heads.END)
        if end < 0 and len(data) <= heads.MAX_BYTES:
            return
        head = parse_head(data[: end + 4]) if 0 <= end <= heads.MAX_BYTES else None
        if head is None:
            self._hand_over(data)
            return
        begin, end = end + 4, end + 4 + head.length
        self._pending = data[end:]
        self.deadline, self._came = _NEVER, False
        self.serving = self._loop.create_task(self._serve(head, data[begin:end]))

    def _hand_over(self, data: bytes) -> None:
        """Lets aiohttp have the connection."""
        self._hub.connections.discard(self)
        other = self._others()
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        if data.startswith(_PROTOCOL):
            line, _, rest = data.partition(b"\r\n")
            data = b"".join([line, b"\r\nConnection: close\r\n", rest])
        other.data_received(data)

    async def _serve(self, head: Head, begun: bytes) -> None:
        """Answers one request, of whose body this has come already."""
        hub = self._hub
        with hub.memory.claim() as claim:
            try:
                owner = await hub.owner(head.headers, self._peer)

                async def read(claim: Claim) -> memoryview:
                    return await self._read(head, begun, claim)

                reply = await hub.inferences.answer(owner, (head.model, head.version), head.headers, read, claim)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
                reply = error_reply(error)
            missing = self._missing(head, begun)
            stays = head.keep_alive and not missing and not hub.closing
            self._write(reply, stays=stays)
            if self._paused:
                await self._drain(reply.size)
        self.serving = None
        if stays:
            self.deadline = self._loop.time() + hub.pace.keep_alive
            self._transport.resume_reading()
            if self._pending:
                self._next()
        else:
            self._leave(missing)

    async def _read(self, head: Head, begun: bytes, claim: Claim) -> memoryview:
        """The whole body. Raises TooLarge, Overloaded, and TimeoutError if it comes too slowly."""
        self._hub.inferences.check_size(head.length)
        claim.take(head.length)
        if len(begun) == head.length:
            return memoryview(begun)
        if head.expects_continue and not begun:
            self._transport.write(_CONTINUE)
        body = _allocate(head.length)
        have = begun + self._pending  # more may have come while the key was looked up
        self._filled, self._pending = min(len(have), head.length), have[head.length :]
        body[: self._filled] = have[: head.length]
        if self._filled < head.length:
            await self._fill(body)
        self._came = True
        return body

    async def _fill(self, body: memoryview) -> None:
        self._whole, self._body = self._loop.create_future(), body
        self.deadline = self._loop.time() + self._hub.pace.transfer(len(body))
        self._transport.resume_reading()
        await self._whole
        self.deadline = _NEVER

    def _missing(self, head: Head, begun: bytes) -> int:
        """Bytes of the body that are still to come, if the request was refused before all had."""
        if self._came or len(begun) == head.length:
            return 0
        if self._body is not None:
            self._body, have = None, self._filled
        else:
            have, self._pending = len(begun) + len(self._pending), b""
        return max(1, head.length - have)

    def _write(self, reply: Reply, *, stays: bool) -> None:
        fields = [_STATUS_LINES[reply.status]]
        fields += [f"{name}: {value}\r\n" for name, value in reply.headers.items()]
        fields.append(f"Content-Length: {reply.size}\r\n{'' if stays else _CLOSE}\r\n")
        head = "".join(fields).encode("latin-1")
        if reply.size <= _JOINED_BYTES:
            self._transport.write(b"".join([head, *reply.parts]))
            return
        self._transport.write(head + bytes(reply.parts[0]))
        for part in reply.parts[1:]:
            self._transport.write(part)

    async def _drain(self, size: int) -> None:
        """Until the client has taken most of the answer, so that it counts as memory for as long."""
        self._drained = self._loop.create_future()
        self.deadline = self._loop.time() + self._hub.pace.transfer(size)
        await self._drained

    def _leave(self, missing: int) -> None:
        """Closes the connection, once what is on its way has come: a client reads no answer as long as it sends.

        One that does not take the answer either is cut off.
        """
        self.deadline = self._loop.time() + self._hub.pace.linger
        if missing:
            self._left = missing
            self._transport.resume_reading()
        else:
            self._transport.close()


def _allocate(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size) if size > _MAPPED_BYTES else bytearray(size))


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
