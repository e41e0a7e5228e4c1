"""From a request to a WebSocket: aiohttp makes the handshake, and has no more to do with the connection then."""

from aiohttp import web

from tandem.websocket import WebSocket


class Upgraded(web.WebSocketResponse):
    """The answer to the request, once the WebSocket has ended."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything was said by then."""


async def upgrade(request: web.Request, *, max_bytes: int, heartbeat: float) -> tuple[WebSocket, Upgraded]:
    """The connection, and what the handler is to return at its end. Raises HTTPBadRequest if no WebSocket is asked for.

    The older protocol hears when the connection is lost, so that aiohttp counts it no longer.
    """
    response = Upgraded(compress=False)
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the connection was lost in its handshake")
    socket = WebSocket(dialled=False, max_bytes=max_bytes, heartbeat=heartbeat)
    socket.take_over(request.transport, request.protocol)
    return socket, response
