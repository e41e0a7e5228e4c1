"""The way to the orchestrator: one outbound WebSocket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWebSocketResponse, WSMsgType

from tandem.protocol.codec import MAX_FRAME_BYTES, Frame
from tandem.protocol.errors import Unavailable

SESSION_PATH = "/v1/node/session"

_PING_SECONDS = 20.0
"""Between pings, by which a connection that died without a word is noticed."""
_CONNECT_SECONDS = 10.0


class WebSocketDialler:
    """Dials the orchestrator at `origin` (`http://host:port`)."""

    def __init__(self, origin: str, ping_seconds: float = _PING_SECONDS) -> None:
        self._url = origin + SESSION_PATH
        self._ping_seconds = ping_seconds

    @asynccontextmanager
    async def dial(self) -> AsyncIterator["WebSocketConnection"]:
        """Connects; raises Unavailable if nobody answers, or somebody who is no orchestrator."""
        timeout = ClientTimeout(sock_connect=_CONNECT_SECONDS)
        async with ClientSession(timeout=timeout) as session:
            try:
                socket = await session.ws_connect(self._url, max_msg_size=MAX_FRAME_BYTES, heartbeat=self._ping_seconds)
            except (ClientError, TimeoutError, OSError) as error:
                raise Unavailable(
                    f"expected an orchestrator at {self._url}: {_reason(error)}; check orchestrator.url, or wait for it"
                ) from error
            async with socket:
                yield WebSocketConnection(socket)


class WebSocketConnection:
    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, frame: Frame) -> None:
        """Raises Unavailable if the connection is gone."""
        try:
            if isinstance(frame, str):
                await self._socket.send_str(frame)
            else:
                await self._socket.send_bytes(frame)
        except (ClientError, ConnectionError) as error:
            raise Unavailable(f"the connection to the orchestrator broke: {_reason(error)}") from error

    async def receive(self) -> Frame:
        """Raises Unavailable if the connection is gone."""
        message = await self._socket.receive()
        if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            frame: Frame = message.data
            return frame
        reason = message.extra if message.type is WSMsgType.CLOSE else self._socket.exception()
        raise Unavailable(
            f"the orchestrator closed the connection ({self._socket.close_code}): {reason or 'no reason'}"
        )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
