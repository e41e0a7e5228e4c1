"""The orchestrator's end against aiohttp's client, the node's against aiohttp's server, and both against bad peers."""
# ruff: noqa: ASYNC110 - what is waited for is inside of a connection, which rings no bell

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from node.adapters.websocket import SESSION_PATH, WebSocketDialler
from orchestrator.web.upgrade import upgrade
from tandem.protocol.errors import Unavailable
from tandem.websocket import LOST, NOT_TEXT, PROTOCOL_ERROR, TOO_BIG, Said, WebSocket, _masked

MOST = 2**21
SIZES = (0, 1, 125, 126, 511, 512, 513, 2**14 + 3, 2**15 + 1, 2**16, 2**19 + 5, MOST)
KEY = b"\x01\x02\x03\x04"


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@dataclass
class Server:
    """Gives every message back, unless a test takes it."""

    url: str = ""
    socket: WebSocket | None = None
    heard: list[Said] = field(default_factory=list)
    at_once: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    heartbeat: float = 30
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """For one more message."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        socket, response = await upgrade(request, max_bytes=MOST, heartbeat=self.heartbeat)
        self.socket = socket
        self.ready.set()
        socket.listen(self.hear, lambda: None)
        self.arrived.set()
        while (message := await socket.receive()) is not None:
            await self.ready.wait()
            socket.send(message)
        await socket.closed()
        self.ended.set()
        return response

    def hear(self, message: Said) -> bool:
        self.heard.append(message)
        if self.at_once and self.socket is not None:
            self.socket.send(message)
        return self.at_once


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Server]:
    server = Server(**settings)  # type: ignore[arg-type]
    app = web.Application()
    app.router.add_get("/", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/"
    try:
        yield server
        if server.arrived.is_set():
            await server.ended.wait()
            while runner.server is not None and runner.server.connections:  # aiohttp has heard of it
                await asyncio.sleep(0)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def dialled(server: Server) -> AsyncIterator[ClientWebSocketResponse]:
    async with ClientSession() as http, http.ws_connect(server.url, max_msg_size=0) as socket:
        yield socket


@asynccontextmanager
async def raw(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection after its handshake, for what no library sends."""
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    yield reader, writer
    writer.close()


def frame(first: int, payload: bytes = b"", *, masked: bool = True, size: int | None = None) -> bytes:
    said = len(payload) if size is None else size
    if said < 126:
        length = bytes([said])
    else:
        length = b"\x7e" + struct.pack(">H", said) if said < 2**16 else b"\x7f" + struct.pack(">Q", said)
    head = bytes([first, length[0] | (0x80 if masked else 0)]) + length[1:]
    return head + (KEY + _masked(payload, KEY) if masked else payload)


@pytest.mark.parametrize("at_once", [False, True])
async def test_messages_of_all_sizes_come_whole_and_in_order(at_once: bool) -> None:
    async with serving(at_once=at_once) as server, dialled(server) as socket:
        for size in SIZES:
            await socket.send_bytes(pattern(size))
            await socket.send_str("ü" * (size // 2))
        for size in SIZES:
            assert (await socket.receive()).data == pattern(size)
            assert (await socket.receive()).data == "ü" * (size // 2)


async def test_frames_may_come_byte_by_byte_and_many_at_once() -> None:
    async with serving() as server, raw(server) as (reader, writer):
        wire = frame(0x82, pattern(300)) + frame(0x81, b"text")
        for at in range(len(wire)):
            writer.write(wire[at : at + 1])
            await asyncio.sleep(0)
        writer.write(wire * 100)
        for _ in range(101):
            assert await reader.readexactly(304) == b"\x82\x7e\x01\x2c" + pattern(300)
            assert await reader.readexactly(6) == b"\x81\x04text"


async def test_a_message_in_fragments_with_a_ping_between_them() -> None:
    async with serving() as server, raw(server) as (reader, writer):
        writer.write(frame(0x02, b"one ") + frame(0x89, b"there?") + frame(0x00, b"two ") + frame(0x80, b"three"))
        assert await reader.readexactly(8) == b"\x8a\x06there?"
        assert await reader.readexactly(15) == b"\x82\x0done two three"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(0x82, b"x", masked=False), PROTOCOL_ERROR),
        (frame(0xC2, b"x"), PROTOCOL_ERROR),
        (frame(0x83, b"x"), PROTOCOL_ERROR),
        (frame(0x80, b"x"), PROTOCOL_ERROR),
        (frame(0x02, b"x") + frame(0x82, b"x"), PROTOCOL_ERROR),
        (frame(0x09, b"x"), PROTOCOL_ERROR),
        (frame(0x89, bytes(126)), PROTOCOL_ERROR),
        (frame(0x81, b"\xff"), NOT_TEXT),
        (frame(0x82, size=MOST + 1), TOO_BIG),
        (frame(0x82, size=2**63), TOO_BIG),
        (frame(0x02, bytes(2**15)) + frame(0x80, size=MOST - 2**15 + 1), TOO_BIG),
        (frame(0x02) + frame(0x00) * 2**14, TOO_BIG),
    ],
    ids=[
        "plain",
        "extension",
        "kind",
        "goes_on",
        "begins",
        "half_ping",
        "long_ping",
        "text",
        "big",
        "huge",
        "sum",
        "empty",
    ],
)
async def test_what_breaks_the_rules_ends_the_connection_with_a_code(sent: bytes, code: int) -> None:
    async with serving() as server, raw(server) as (reader, writer):
        writer.write(sent + frame(0x82, b"more") * 1000)
        head = await reader.readexactly(4)
        assert (head[0], struct.unpack(">H", head[2:])[0]) == (0x88, code)
        assert server.socket is not None
        assert server.socket.code == code
        assert server.heard == []


async def test_what_comes_after_a_breach_is_read_to_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, raw(server) as (reader, writer):
        writer.write(frame(0xC2, b"x") + bytes(2**20))
        assert (await reader.readexactly(2))[0] == 0x88
        await writer.drain()
    assert caplog.records == []


async def test_whoever_has_left_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, raw(server) as (reader, writer):
        writer.write(frame(0x88, b"\x03\xe8") + frame(0x89) * 50)
        assert await reader.read() == b"\x88\x02\x03\xe8"
    assert caplog.records == []


async def test_no_extension_is_agreed_to() -> None:
    async with serving() as server, ClientSession() as http, http.ws_connect(server.url, compress=15) as socket:
        await socket.send_str("a" * 1000)
        assert (await socket.receive()).data == "a" * 1000


async def test_a_message_that_is_announced_takes_no_memory_until_it_comes() -> None:
    async with serving() as server, raw(server) as (_, writer):
        writer.write(frame(0x82, size=MOST))
        await server.arrived.wait()
        assert server.socket is not None
        while server.socket._end or server.socket._piece is None:
            await asyncio.sleep(0)
        assert len(server.socket._piece) == MOST // 4


async def test_the_other_side_ends_it_and_its_reason_is_known() -> None:
    async with serving() as server:
        async with dialled(server) as socket:
            await socket.close(code=4000, message=b"enough")
            assert socket.close_code == 1000
        await server.ended.wait()
        assert server.socket is not None
        assert (server.socket.code, server.socket.reason) == (4000, "enough")


async def test_what_was_said_before_the_end_arrives() -> None:
    async with serving() as server, dialled(server) as socket:
        await server.arrived.wait()
        assert server.socket is not None
        server.socket.send(pattern(MOST))
        server.socket.close(reason="x" * 200)
        server.socket.send(b"nobody hears this")
        assert (await socket.receive()).data == pattern(MOST)
        last = await socket.receive()
        assert (last.type, last.data, last.extra) == (WSMsgType.CLOSE, 1000, "x" * 123)


async def test_whoever_does_not_read_does_not_keep_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.websocket._LINGER_SECONDS", 0.05)
    async with serving() as server, raw(server):
        await server.arrived.wait()
        assert server.socket is not None
        while not server.socket.full:
            server.socket.send(bytes(MOST))
        server.socket.close()
        await server.ended.wait()


async def test_silence_ends_it() -> None:
    async with serving(heartbeat=0.02) as server, raw(server) as (reader, _):
        assert await reader.readexactly(2) == b"\x89\x00"
        assert await reader.read() == b""
        await server.ended.wait()
        assert server.socket is not None
        assert (server.socket.code, "nothing came" in server.socket.reason) == (LOST, True)


async def test_a_pong_is_a_sign_of_life() -> None:
    async with serving(heartbeat=0.05) as server, dialled(server) as socket:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await socket.receive()
        await socket.send_str("still here")
        assert (await socket.receive()).data == "still here"


async def test_messages_that_nobody_receives_are_left_on_the_way() -> None:
    async with serving() as server, raw(server) as (_, writer):
        server.ready.clear()
        for _ in range(100):
            writer.write(frame(0x82, bytes(2**15)))
        await server.arrived.wait()
        assert server.socket is not None
        while server.socket._transport.is_reading():
            await asyncio.sleep(0)
        assert 2**17 < server.socket._waiting < 2**18
        for _ in range(10):
            server.socket._beat()  # that nothing is read says nothing of the other side
        assert not server.socket._ended.done()
        server.ready.set()


@asynccontextmanager
async def aiohttp_server(handle: object) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get(SESSION_PATH, handle)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_a_node_speaks_with_aiohttp() -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.data == b"end":
                await socket.close(code=4001, message=b"as you like")
            else:
                await socket.send_bytes(message.data)
        return socket

    async with aiohttp_server(echo) as origin, WebSocketDialler(origin).dial() as connection:
        for size in SIZES:
            connection.send(pattern(size)[:7], pattern(size)[7:])
            assert await connection.receive() == pattern(size)
        connection.send("ü" * 300)
        assert await connection.receive() == "ü" * 300
        connection.send(b"end")
        with pytest.raises(Unavailable, match=r"\(4001\): as you like"):
            await connection.receive()


async def test_whoever_opens_no_websocket_is_no_orchestrator() -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/readyz")

    async with aiohttp_server(hello) as origin:
        with pytest.raises(Unavailable, match="it answered 200 OK and opens no WebSocket"):
            async with WebSocketDialler(origin).dial():
                pass
    async with aiohttp_server(elsewhere) as origin:
        with pytest.raises(Unavailable, match="it answered 302 Found"):
            async with WebSocketDialler(origin).dial():
                pass
    with pytest.raises(Unavailable, match="check orchestrator"):
        async with WebSocketDialler(origin).dial():
            pass


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 511, 512, 513, 514, 515, 516])
def test_masking_twice_gives_back_what_was(size: int) -> None:
    data = pattern(size)
    assert _masked(data, KEY) == bytes(each ^ KEY[at % 4] for at, each in enumerate(data))
    assert _masked(_masked(data, KEY), KEY) == data
