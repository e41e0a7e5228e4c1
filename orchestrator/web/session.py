"""`GET /v1/node/session`: the WebSocket that a node dials. Moves frames between the socket and the session machine."""

import asyncio
import secrets
from collections.abc import Sequence

from aiohttp import web

from orchestrator.core.session import Close, Deliver, Effect, Identity, OrchestratorSession, Phase, Proven, Send
from orchestrator.ports.nodes import Reply
from orchestrator.service.sessions import Sessions
from orchestrator.web.call import Call
from orchestrator.web.routes import Access, Route
from orchestrator.web.upgrade import upgrade
from tandem.outbox import Outbox
from tandem.protocol.codec import MAX_FRAME_BYTES, Envelope, decode, encode
from tandem.protocol.errors import AttemptLost, ProtocolError
from tandem.protocol.messages import Failed, Finished, OrchestratorMessage
from tandem.protocol.streams import Abandoned, Buffer, Event, Refused, Responded, Streams, is_stream
from tandem.protocol.tensors import Tensor
from tandem.websocket import Said, WebSocket

_HANDSHAKE_SECONDS = 10.0
"""In which a node proves itself, in however many frames."""
_MAX_QUEUED = 1024
"""Messages that may wait for a node that does not read; beyond, the session is closed."""
_RESULTS_AT_ONCE = 16


class _Link:
    """The outgoing side, and the streams of both. What services say before the welcome follows it."""

    def __init__(self, socket: WebSocket) -> None:
        self.node: str | None = None
        """Who is at the other end, once it is proven."""
        self.violation: ProtocolError | None = None
        """Of the node's, in a message of streams."""
        self._streams = Streams(requests=True)
        self._socket = socket
        self._outbox = Outbox(self._streams)
        self._outbox.open(socket)
        self._replies: dict[int, Reply] = {}
        self._held_back: list[Envelope] | None = []
        """None once the welcome is on its way."""
        self._closing = False
        socket.listen(self.hear, self._outbox.ring)

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
        if self._closing or self._held_back is not None:
            raise AttemptLost("the node's session has ended, or has only begun")
        stream = self._streams.request(head, body)
        self._replies[stream] = reply
        self._outbox.ring()
        return stream

    def cancel(self, stream: int) -> None:
        if not self._closing:
            self._hear(self._streams.cancel(stream))
            self._outbox.ring()

    def hear(self, message: Said) -> bool:
        """Takes a message of streams once the session is open; False for all else, and what breaks the rules."""
        if isinstance(message, str) or not is_stream(message) or self._held_back is not None or self.violation:
            return False
        try:
            for event in self._streams.receive(message):
                self._hear(event)
        except ProtocolError as error:
            self.violation = error
            return False
        self._outbox.ring()
        return True

    def _hear(self, event: Event | None) -> None:
        if isinstance(event, Responded | Abandoned | Refused):
            reply = self._replies.pop(event.stream, None)
            if reply is not None:
                reply(event.error if isinstance(event, Refused) else event)

    def _put(self, envelope: Envelope) -> None:
        if self._closing:
            return
        if len(self._outbox) >= _MAX_QUEUED:
            self.close("unavailable", f"the node left {_MAX_QUEUED} messages unread")
        else:
            self._outbox.put_nowait(encode(envelope))

    def close(self, code: str, reason: str) -> None:
        if not self._closing:
            self._closing = True
            self._outbox.close()
            self._socket.close(reason=f"{code}: {reason}")
            self._lose()

    def _lose(self) -> None:
        """Requests that were under way may be tried elsewhere."""
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply(AttemptLost("the node's session ended before it answered"))


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
        self._sockets: set[WebSocket] = set()

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
        socket, response = await upgrade(call.request, max_bytes=MAX_FRAME_BYTES, heartbeat=self._heartbeat)
        self._sockets.add(socket)
        link = _Link(socket)
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._read(socket, _Inbox(self._sessions, link, group))
                finally:
                    link.close("bye", "the node is gone")
            await socket.closed()
        finally:
            self._sockets.discard(socket)
            socket.abort()
        return response

    async def close(self) -> None:
        """Ends every session: the process is going down, and nodes will dial again."""
        sockets = list(self._sockets)
        for socket in sockets:
            socket.close(reason="unavailable: the orchestrator is stopping")
        for socket in sockets:
            await socket.closed()

    async def _read(self, socket: WebSocket, inbox: _Inbox) -> None:
        machine = OrchestratorSession(self._identity, secrets.token_bytes(32))
        prove_until = asyncio.get_running_loop().time() + _HANDSHAKE_SECONDS
        try:
            while machine.phase is not Phase.CLOSED:
                is_open = machine.phase is Phase.OPEN
                message = await (socket.receive() if is_open else self._in_time(socket, prove_until))
                if message is None:
                    return
                if not inbox.link.hear(message):
                    await self._perform(inbox, machine, _effects(machine, message, inbox.link.violation))
        finally:
            if inbox.link.node is not None:
                self._sessions.closed(inbox.link.node, inbox.link)

    @staticmethod
    async def _in_time(socket: WebSocket, until: float) -> Said | None:
        """The next message, or an end by the loop's time `until`."""
        try:
            async with asyncio.timeout_at(until):
                return await socket.receive()
        except TimeoutError:
            return None

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


def _effects(machine: OrchestratorSession, message: Said, violation: ProtocolError | None) -> Sequence[Effect]:
    try:
        if violation is not None:
            raise violation
        return machine.receive(decode(message if isinstance(message, str) else bytes(message)))
    except ProtocolError as error:
        return machine.refuse(error)
