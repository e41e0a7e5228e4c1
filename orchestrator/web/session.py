"""`GET /v1/node/session`: the WebSocket that a node dials. Moves frames between the socket and the session machine."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import WSMessage, WSMsgType, web
from aiohttp.http import WS_CLOSED_MESSAGE

from orchestrator.core.session import Close, Deliver, Effect, Identity, OrchestratorSession, Phase, Proven, Send
from orchestrator.ports.nodes import Reply
from orchestrator.service.sessions import Sessions
from orchestrator.web.call import Call
from orchestrator.web.routes import Access, Route
from tandem.outbox import Outbox
from tandem.protocol.codec import MAX_FRAME_BYTES, Envelope, Frame, decode, encode
from tandem.protocol.errors import AttemptLost, ProtocolError
from tandem.protocol.messages import Failed, Finished, OrchestratorMessage
from tandem.protocol.streams import Abandoned, Buffer, Event, Refused, Responded, Streams, is_stream
from tandem.protocol.tensors import Tensor

_HANDSHAKE_SECONDS = 10.0
"""In which a node proves itself, in however many frames."""
_LAST_WORDS_SECONDS = 2.0
_MAX_QUEUED = 1024
"""Messages that may wait for a node that does not read; beyond, the session is closed."""
_RESULTS_AT_ONCE = 16


class _Link:
    """The outgoing side: an outbox that one writer empties. What services say before the welcome follows it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.node: str | None = None
        """Who is at the other end, once it is proven."""
        self.streams = Streams(requests=True)
        self._socket = socket
        self._outbox = Outbox(self.streams)
        self._replies: dict[int, Reply] = {}
        self._held_back: list[Envelope] | None = []
        """None once the welcome is on its way."""
        self._closing: Close | None = None

    def send(self, message: OrchestratorMessage, tensors: tuple[Tensor, ...] = ()) -> None:
        if self._held_back is None:
            self._put(Envelope(message, tensors))
        else:
            self._held_back.append(Envelope(message, tensors))

    def say_at_once(self, message: OrchestratorMessage) -> None:
        """The session's own words: handshake, welcome, problems."""
        self._put(Envelope(message))

    def release(self) -> None:
        """The welcome is on its way."""
        held_back, self._held_back = self._held_back or (), None
        for envelope in held_back:
            self._put(envelope)

    def request(self, head: bytes, body: Sequence[Buffer], reply: Reply) -> int:
        if self._closing is not None or self._held_back is not None:
            raise AttemptLost("the node's session has ended, or has only begun")
        stream = self.streams.request(head, body)
        self._replies[stream] = reply
        self._outbox.ring()
        return stream

    def cancel(self, stream: int) -> None:
        if self._closing is None:
            self._hear(self.streams.cancel(stream))
            self._outbox.ring()

    def take(self, frame: bytes) -> None:
        """A message of streams. Raises StreamViolation."""
        for event in self.streams.receive(frame):
            self._hear(event)
        self._outbox.ring()

    def _hear(self, event: Event | None) -> None:
        if isinstance(event, Responded | Abandoned | Refused):
            reply = self._replies.pop(event.stream, None)
            if reply is not None:
                reply(event.error if isinstance(event, Refused) else event)

    def _put(self, envelope: Envelope) -> None:
        if self._closing is not None:
            return
        if len(self._outbox) >= _MAX_QUEUED:
            self.close("unavailable", f"the node left {_MAX_QUEUED} messages unread")
        else:
            self._outbox.put_nowait(encode(envelope))

    def close(self, code: str, reason: str) -> None:
        if self._closing is None:
            self._closing = Close(code, reason)
            self._outbox.close()
            self._lose()

    def _lose(self) -> None:
        """Requests that were under way may be tried elsewhere."""
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply(AttemptLost("the node's session ended before it answered"))

    async def write(self) -> None:
        """Until closed."""
        await self._outbox.write(self._send)
        if self._closing is not None:
            message = f"{self._closing.code}: {self._closing.detail}".encode()[:120]
            await self._socket.close(message=message)

    async def _send(self, frame: Frame) -> None:
        if isinstance(frame, str):
            await self._socket.send_str(frame)
        else:
            await self._socket.send_bytes(frame)


async def _last_words(writer: "asyncio.Task[None]") -> None:
    """Lets a refusal reach the node, unless it does not read."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await writer


class _Inbox:
    """The incoming side: messages in their order, but for results.

    Those wait for the disk and not for each other, so that many of them share one commit of the store.
    """

    def __init__(self, sessions: Sessions, link: _Link, group: asyncio.TaskGroup) -> None:
        self._sessions = sessions
        self.link = link
        self._group = group
        self._room = asyncio.Semaphore(_RESULTS_AT_ONCE)

    async def put(self, node: str, envelope: Envelope) -> None:
        if not isinstance(envelope.message, Finished | Failed):
            await self._sessions.receive(node, self.link, envelope)
            return
        await self._room.acquire()
        receiving = self._group.create_task(self._sessions.receive(node, self.link, envelope))
        receiving.add_done_callback(lambda _: self._room.release())


class NodeSessions:
    """The endpoint. `heartbeat`: seconds between WebSocket pings, by which a dead connection is noticed."""

    def __init__(self, identity: Identity, sessions: Sessions, heartbeat: float) -> None:
        self._identity = identity
        self._sessions = sessions
        self._heartbeat = heartbeat
        self._sockets: set[web.WebSocketResponse] = set()

    def route(self) -> Route:
        return Route(
            method="GET",
            path="/v1/node/session",
            handler=self.handle,
            summary="The WebSocket of a node: it proves itself by its key, and takes attempts.",
            access=Access.PUBLIC,
            answers={101: ""},
        )

    async def handle(self, call: Call) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, heartbeat=self._heartbeat)
        await socket.prepare(call.request)
        self._sockets.add(socket)
        link = _Link(socket)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(link))
                await self._read(socket, _Inbox(self._sessions, link, group))
                link.close("bye", "the node is gone")
                await _last_words(writer)
        finally:
            self._sockets.discard(socket)
        return socket

    async def close(self) -> None:
        """Ends every session: the process is going down, and nodes will dial again."""
        async with asyncio.TaskGroup() as group:  # each waits a while for its node to answer
            for socket in self._sockets:
                group.create_task(socket.close(message=b"unavailable: the orchestrator is stopping"))

    @staticmethod
    async def _write(link: _Link) -> None:
        try:
            await link.write()
        except ConnectionError:  # the reader sees the end too
            return

    async def _read(self, socket: web.WebSocketResponse, inbox: _Inbox) -> None:
        machine = OrchestratorSession(self._identity, secrets.token_bytes(32))
        prove_until = asyncio.get_running_loop().time() + _HANDSHAKE_SECONDS
        try:
            while machine.phase is not Phase.CLOSED:
                is_open = machine.phase is Phase.OPEN
                frame = await (socket.receive() if is_open else self._in_time(socket, prove_until))
                if frame.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    return
                if is_open and frame.type is WSMsgType.BINARY and is_stream(frame.data):
                    effects = _taken(machine, inbox.link, frame.data)
                else:
                    effects = _effects(machine, frame)
                await self._perform(inbox, machine, effects)
        finally:
            if inbox.link.node is not None:
                self._sessions.closed(inbox.link.node, inbox.link)

    @staticmethod
    async def _in_time(socket: web.WebSocketResponse, until: float) -> WSMessage:
        """The next frame, or an end by the loop's time `until`."""
        try:
            async with asyncio.timeout_at(until):
                return await socket.receive()
        except TimeoutError:
            return WS_CLOSED_MESSAGE

    async def _perform(self, inbox: _Inbox, machine: OrchestratorSession, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    inbox.link.say_at_once(message)
                case Close(code, detail):
                    inbox.link.close(code, detail)
                case Deliver(envelope) if inbox.link.node is not None:
                    await inbox.put(inbox.link.node, envelope)
                case Proven():
                    await self._open(inbox.link, machine, effect)
                case _:
                    raise AssertionError(f"the machine delivered before it was open: {effect}")

    async def _open(self, link: _Link, machine: OrchestratorSession, proven: Proven) -> None:
        link.node = proven.node
        for effect in machine.welcome(await self._sessions.opened(proven, link)):
            if isinstance(effect, Send):
                link.say_at_once(effect.message)
                link.release()
        await self._sessions.resumed(proven.node)


def _effects(machine: OrchestratorSession, frame: WSMessage) -> Sequence[Effect]:
    try:
        return machine.receive(decode(frame.data))
    except ProtocolError as error:
        return machine.refuse(error)


def _taken(machine: OrchestratorSession, link: _Link, frame: bytes) -> Sequence[Effect]:
    try:
        link.take(frame)
    except ProtocolError as error:
        return machine.refuse(error)
    return ()
