"""The first reader of every connection: requests for inferences are answered here, all others go to aiohttp.

An inference of a fraction of a millisecond leaves no room for a general server: what is done here for a request are one
look at its head, one at its body, and one write, each in a callback. Only what has to be waited for, such as a large
body, makes a task. Bodies are read straight into the memory that tensors are views of. Everything that is not a plain
request for an inference (`head`) is handed to aiohttp's protocol with the connection itself. Where
the Open Inference Protocol's other paths are asked for, aiohttp is told to close the connection after the answer, since
clients that ask for a model's description ask for inferences next, which ought to come here.

The bounds of time of a connection are looked after by one sweep a second over all of them, so that they cost a request
nothing.
"""

import asyncio
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from orchestrator.core.online import OnlineAnswer
from orchestrator.web.oip import head as heads
from orchestrator.web.oip.head import Head, parse_head
from orchestrator.web.oip.inferences import Asked, Inferences
from orchestrator.web.oip.memory import Claim, Memory
from orchestrator.web.oip.replies import Reply, error_reply
from tandem.protocol.errors import ConfigurationError, TandemError

Owner = Callable[[Mapping[str, str], str], str | Awaitable[str]]
"""From a request's headers and the peer's address to whose it is: at once, if that is known. Raises Unauthorized."""

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
        self._empty: asyncio.Future[None] | None = None
        """Awaited at the end, until no connection is left."""

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

    def gone(self, connection: "Front") -> None:
        self.connections.discard(connection)
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    async def _end(self, grace: float) -> None:
        for connection in [each for each in self.connections if not each.busy]:
            connection.close()
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=grace)
        for connection in list(self.connections):
            connection.close()


class Front(asyncio.BufferedProtocol):
    """One connection: a request is read, answered, and then the next one is."""

    __slots__ = (
        "_answered",
        "_asked",
        "_body",
        "_came",
        "_cancel",
        "_claim",
        "_filled",
        "_had",
        "_head",
        "_hub",
        "_left",
        "_loop",
        "_others",
        "_paused",
        "_peer",
        "_pending",
        "_stays",
        "_stopped",
        "_task",
        "_transport",
        "_whole",
        "deadline",
    )

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, others: Callable[[], asyncio.Protocol]) -> None:
        self._hub = hub
        self._loop = loop
        self._others = others
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._pending = b""
        """What has come beyond the request that is being served, or is less than a head."""
        self._peer = ""
        self._head: Head = None  # type: ignore[assignment]  # until the first request
        self._claim: Claim | None = None
        """What the request that is being served holds; None: none is."""
        self._asked: Asked | None = None
        """What runs, with the body: let go of with the claim, since a connection may stay for long."""
        self._cancel: Callable[[], object] | None = None
        """Ends the run of it, if there is one."""
        self._task: asyncio.Task[None] | None = None
        """What has to be waited for before the run, or after it."""
        self._had = 0
        """Bytes of its body that came with its head."""
        self._came = False
        """Whether its whole body was read."""
        self._body: memoryview | None = None
        """What is being read into, if a body is awaited."""
        self._filled = 0
        self._whole: asyncio.Future[None] | None = None
        """The body has come."""
        self._answered = False
        """Whether its answer waits for the client to take it."""
        self._stays = True
        """Whether there may be another request after it."""
        self._left = 0
        """Bytes to drop before the connection is closed."""
        self._paused = False
        self._stopped = False
        """Whether it is not read from."""
        self.deadline = loop.time() + hub.pace.keep_alive

    @property
    def busy(self) -> bool:
        return self._claim is not None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._hub.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._hub.gone(self)
        if self._task is not None:
            self._task.cancel()
        if self._cancel is not None:
            self._cancel()
        if self._claim is not None:
            self._claim.release()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._hub.scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, size: int) -> None:
        if self._body is not None:
            self._filled += size
            if self._filled == len(self._body):
                self._body = None
                if self._whole is not None and not self._whole.done():
                    self._whole.set_result(None)
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
        if self._answered:
            self._over()
            self._next()

    # What the hub calls.

    def expire(self) -> None:
        """It has taken too long over what it was about."""
        self.deadline = self._loop.time() + self._hub.pace.linger
        if self._body is not None and self._whole is not None and not self._whole.done():
            self._whole.set_exception(TimeoutError())
        else:
            self._transport.abort()

    def close(self) -> None:
        if self.busy:
            self._transport.abort()
        else:
            self._transport.close()

    # Requests.

    def _received(self, data: bytes) -> None:
        self._pending = self._pending + data if self._pending else data
        if self._claim is None:
            self._next()
        elif len(self._pending) > _SCRATCH_BYTES:  # it sends requests before it has answers
            self._stopped = True
            self._transport.pause_reading()  # they wait in its own system

    def _read_on(self) -> None:
        if self._stopped:
            self._stopped = False
            self._transport.resume_reading()

    def _next(self) -> None:
        """Begins the requests that have come, until one has to be waited for."""
        while self._claim is None and self._pending:
            data = self._pending
            end = data.find(heads.END) + len(heads.END)
            if end < len(heads.END) and len(data) <= heads.MAX_BYTES:
                return
            head = parse_head(data[:end]) if len(heads.END) <= end <= heads.MAX_BYTES + len(heads.END) else None
            if head is None:
                self._hand_over(data)
                return
            self._pending = data[end + head.length :]
            self._begin(head, memoryview(data)[end : end + head.length])

    def _begin(self, head: Head, begun: memoryview) -> None:
        """Serves one request, of whose body this has come already."""
        hub = self._hub
        self._head, self._claim, self.deadline = head, hub.memory.claim(), _NEVER
        self._had, self._came = len(begun), len(begun) == head.length
        try:
            owner = hub.owner(head.headers, self._peer)
            asked = self._read_at_once(owner, head, begun) if self._came and isinstance(owner, str) else None
            if asked is not None:
                self._submit(asked)
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
            self._answer(error_reply(error))
            return
        self._claim.release()
        self._task = self._loop.create_task(self._wait(owner, head, begun))

    def _read_at_once(self, owner: str, head: Head, body: memoryview) -> Asked | None:
        assert self._claim is not None  # noqa: S101 - a request is being served
        self._hub.inferences.check_size(head.length)
        self._claim.owner = owner
        self._claim.take(head.length)
        return self._hub.inferences.read(owner, (head.model, head.version), head.headers, body)

    async def _wait(self, found: str | Awaitable[str], head: Head, begun: memoryview) -> None:
        """For the key, the model, the body, or a thread."""
        assert self._claim is not None  # noqa: S101 - a request is being served

        async def read(claim: Claim) -> memoryview:
            return await self._read(head, begun, claim)

        try:
            owner = found if isinstance(found, str) else await found
            named = head.model, head.version
            self._submit(await self._hub.inferences.wait(owner, named, head.headers, read, self._claim))
        except Exception as error:  # noqa: BLE001 - as above
            self._answer(error_reply(error))
            self._next()

    def _submit(self, asked: Asked) -> None:
        """Raises what is known at once to stand against it."""
        self._task, self._asked = None, asked
        self._cancel = self._hub.inferences.online.submit(asked.call, self._done)

    def _done(self, outcome: OnlineAnswer | TandemError) -> None:
        """The run is over."""
        assert self._claim is not None  # noqa: S101 - a request is being served
        assert self._asked is not None  # noqa: S101 - so it was submitted
        self._cancel = None
        try:
            if isinstance(outcome, TandemError):
                reply: Reply | None = error_reply(outcome)
            else:
                reply = self._hub.inferences.reply(self._asked, outcome, self._claim)
        except Exception as error:  # noqa: BLE001 - as above
            reply = error_reply(error)
        if reply is not None:
            self._answer(reply)
            self._next()
        elif not isinstance(outcome, TandemError):
            self._task = self._loop.create_task(self._compose(self._asked, outcome))

    async def _compose(self, asked: Asked, answer: OnlineAnswer) -> None:
        try:
            reply = await self._hub.inferences.compose(asked, answer)
        except Exception as error:  # noqa: BLE001 - as above
            reply = error_reply(error)
        self._answer(reply)
        self._next()

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

    async def _read(self, head: Head, begun: memoryview, claim: Claim) -> memoryview:
        """The whole body. Raises TooLarge, Overloaded, and TimeoutError if it comes too slowly."""
        self._hub.inferences.check_size(head.length)
        claim.take(head.length)
        if self._came:
            return begun
        if head.expects_continue and not begun:
            self._transport.write(_CONTINUE)
        body = _allocate(head.length)
        have = b"".join((begun, self._pending))  # more may have come while the key was looked up
        self._filled, self._pending = min(len(have), head.length), have[head.length :]
        body[: self._filled] = have[: head.length]
        if self._filled < head.length:
            await self._fill(body)
        self._came = True
        return body

    async def _fill(self, body: memoryview) -> None:
        self._whole, self._body = self._loop.create_future(), body
        self.deadline = self._loop.time() + self._hub.pace.transfer(len(body))
        self._read_on()
        await self._whole
        self.deadline = _NEVER

    def _still_to_come(self) -> int:
        """Bytes of the body, if the request was refused before all had come."""
        if self._came:
            return 0
        if self._body is not None:
            self._body, have = None, self._filled
        else:
            have, self._pending = self._had + len(self._pending), b""
        return max(1, self._head.length - have)

    def _answer(self, reply: Reply) -> None:
        self._task, self._left = None, self._still_to_come()
        self._stays = self._head.keep_alive and not self._left and not self._hub.closing
        self._write(reply, stays=self._stays)
        self._answered = True
        if self._paused:  # until the client has taken most of the answer, it counts as memory
            self.deadline = self._loop.time() + self._hub.pace.transfer(reply.size)
        else:
            self._over()

    def _over(self) -> None:
        assert self._claim is not None  # noqa: S101 - a request is being served
        self._claim.release()
        self._claim, self._asked, self._answered = None, None, False
        if self._stays:
            self.deadline = self._loop.time() + self._hub.pace.keep_alive
            self._read_on()
        else:
            self._leave()

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

    def _leave(self) -> None:
        """Closes the connection, once what is on its way has come: a client reads no answer as long as it sends.

        One that does not take the answer either is cut off.
        """
        self.deadline, self._pending = self._loop.time() + self._hub.pace.linger, b""
        if self._left:
            self._read_on()
        else:
            self._transport.close()


def _allocate(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size) if size > _MAPPED_BYTES else bytearray(size))
