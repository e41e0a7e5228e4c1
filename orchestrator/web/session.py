"""`GET /v1/node/session`: the WebSocket that a node dials. Moves frames between the socket and the session machine."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import WSMessage, WSMsgType, web

from orchestrator.core.session import Close, Deliver, Effect, Identity, OrchestratorSession, Phase, Proven, Send
from orchestrator.service.sessions import Sessions
from orchestrator.web.call import Call
from orchestrator.web.routes import Access, Route
from tandem.protocol.codec import MAX_FRAME_BYTES, Envelope, decode, encode
from tandem.protocol.errors import ProtocolError
from tandem.protocol.messages import Failed, Finished, OrchestratorMessage
from tandem.protocol.tensors import Tensor

_HANDSHAKE_SECONDS = 10.0
"""In which a node proves itself, in however many frames."""
_LAST_WORDS_SECONDS = 2.0
_MAX_QUEUED = 1024
"""Messages that may wait for a node that does not read; beyond, the session is closed."""
_RESULTS_AT_ONCE = 16


class _Link:
    """The outgoing side: a bounded queue that one writer empties. What services say before the welcome follows it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.node: str | None = None
        """Who is at the other end, once it is proven."""
        self._socket = socket
        self._queue: asyncio.Queue[Envelope | Close] = asyncio.Queue()
        self._held_back: list[Envelope] | None = []
        """None once the welcome is on its way."""
        self._open = True

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

    def _put(self, envelope: Envelope) -> None:
        if not self._open:
            return
        if self._queue.qsize() >= _MAX_QUEUED:
            self.close("unavailable", f"the node left {_MAX_QUEUED} messages unread")
        else:
            self._queue.put_nowait(envelope)

    def close(self, code: str, reason: str) -> None:
        if self._open:
            self._open = False
            self._queue.put_nowait(Close(code, reason))

    async def write(self) -> None:
        """Until closed."""
        while True:
            item = await self._queue.get()
            if isinstance(item, Close):
                await self._socket.close(message=f"{item.code}: {item.detail}".encode()[:120])
                return
            await _send(self._socket, item)


async def _last_words(writer: "asyncio.Task[None]") -> None:
    """Lets a refusal reach the node, unless it does not read."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await writer


async def _send(socket: web.WebSocketResponse, envelope: Envelope) -> None:
    frame = encode(envelope)
    if isinstance(frame, str):
        await socket.send_str(frame)
    else:
        await socket.send_bytes(frame)


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
                frame = await self._receive(socket, None if machine.phase is Phase.OPEN else prove_until)
                if frame is None:
                    return
                await self._perform(inbox, machine, _effects(machine, frame))
        finally:
            if inbox.link.node is not None:
                self._sessions.closed(inbox.link.node, inbox.link)

    @staticmethod
    async def _receive(socket: web.WebSocketResponse, until: float | None) -> WSMessage | None:
        """The next frame; None at the end, or if there is none by the loop's time `until`."""
        try:
            async with asyncio.timeout_at(until):
                message = await socket.receive()
        except TimeoutError:
            return None
        return message if message.type in {WSMsgType.TEXT, WSMsgType.BINARY} else None

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
