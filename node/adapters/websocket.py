"""The way to the orchestrator: one outbound WebSocket."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from tandem.protocol.codec import MAX_FRAME_BYTES
from tandem.protocol.errors import Unavailable
from tandem.protocol.streams import Buffer
from tandem.websocket import Said, WebSocket

SESSION_PATH = "/v1/node/session"

_PING_SECONDS = 20.0
"""Between pings, by which a connection that died without a word is noticed."""
_CONNECT_SECONDS = 10.0
_KEY_BYTES = 16
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""


class WebSocketDialler:
    """Dials the orchestrator at `origin` (`http://host:port`)."""

    def __init__(self, origin: str, ping_seconds: float = _PING_SECONDS) -> None:
        self._url = origin + SESSION_PATH
        self._ping_seconds = ping_seconds

    @asynccontextmanager
    async def dial(self) -> AsyncIterator["WebSocketConnection"]:
        """Connects; raises Unavailable if nobody answers, or somebody who is no orchestrator."""
        key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        async with ClientSession(timeout=ClientTimeout(sock_connect=_CONNECT_SECONDS)) as session:
            try:
                response = await session.get(
                    self._url, headers=_asked(key), read_until_eof=False, allow_redirects=False
                )
            except (ClientError, TimeoutError, OSError) as error:
                raise self._no_orchestrator(str(error) or type(error).__name__) from error
            async with response:
                socket = self._take_over(response, key)
                try:
                    yield WebSocketConnection(socket)
                finally:
                    socket.close()
                    response.close()

    def _take_over(self, response: ClientResponse, key: str) -> WebSocket:
        accepted = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()  # noqa: S324 - RFC 6455's
        if (
            response.status != HTTPStatus.SWITCHING_PROTOCOLS
            or response.headers.get("Sec-WebSocket-Accept") != accepted
            or response.connection is None
            or response.connection.protocol is None
        ):
            raise self._no_orchestrator(f"it answered {response.status} {response.reason} and opens no WebSocket")
        socket = WebSocket(dialled=True, max_bytes=MAX_FRAME_BYTES, heartbeat=self._ping_seconds)
        socket.take_over(cast("asyncio.Transport", response.connection.transport), response.connection.protocol)
        return socket

    def _no_orchestrator(self, reason: str) -> Unavailable:
        return Unavailable(f"expected an orchestrator at {self._url}: {reason}; check orchestrator.url, or wait for it")


class WebSocketConnection:
    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    @property
    def full(self) -> bool:
        return self._socket.full

    def send(self, *parts: Buffer | str) -> None:
        self._socket.send(*parts)

    def listen(self, heard: Callable[[Said], bool], writable: Callable[[], None]) -> None:
        self._socket.listen(heard, writable)

    async def receive(self) -> Said:
        """Raises Unavailable if the connection is gone."""
        message = await self._socket.receive()
        if message is None:
            raise Unavailable(
                f"the orchestrator closed the connection ({self._socket.code}): {self._socket.reason or 'no reason'}"
            )
        return message


def _asked(key: str) -> dict[str, str]:
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
