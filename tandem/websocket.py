"""A WebSocket (RFC 6455) from its handshake on: whole messages both ways, with no task, lock or copy to each of them.

It takes over a connection whose handshake somebody else has made. A message is heard at once, in the callback that its
last byte came with, as long as whoever hears it wants that; all others are received one after the other. No extension
is spoken. What is said is never waited for: whoever says much looks at `full`.
"""

import asyncio
import secrets
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

import numpy as np

Buffer = bytes | bytearray | memoryview
Said = str | bytes | bytearray
"""A message as it came."""

NORMAL, PROTOCOL_ERROR, LOST, NOT_TEXT, TOO_BIG = 1000, 1002, 1006, 1007, 1009
"""Codes of an end (section 7.4)."""

_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FINAL, _RESERVED, _KIND, _IS_CONTROL = 0x80, 0x70, 0x0F, 0x08
_MASKED, _SIZE = 0x80, 0x7F
_MOST_CONTROL, _IN_TWO, _IN_EIGHT = 125, 126, 127
_KEY_BYTES = 4
_TWO, _EIGHT = struct.Struct(">H"), struct.Struct(">Q")
_MEDIUM, _LARGE = struct.Struct(">BBH"), struct.Struct(">BBQ")
_CODE = struct.Struct(">H")

_BUFFER_BYTES = 2**16
_APART_BYTES = 2**14
"""What is larger than this and has not come yet is read to where it stays."""
_PIECE_BYTES = 2**19
"""Memory for what has only been announced; a whole number of keys."""
_JOINED_BYTES = 2**15
"""What is larger is written by itself: one more call costs less than a copy."""
_MOST_PIECES = 2**14
"""Of one message: each takes some memory, however little is in it."""
_MOST_WAITING = 2**17
"""Bytes of messages that wait to be received before the connection is not read any more."""
_FEW_BYTES = 2**9
"""For which an integer is faster than an array."""
_LINGER_SECONDS = 2.0
_ASK_AFTER, _GIVE_UP_AFTER = 2, 3
"""Halves of a heartbeat without a byte from the other side."""


class _Violation(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class WebSocket(asyncio.BufferedProtocol):
    """One connection. `dialled`: by this side, which then masks what it says, and speaks first.

    A message of more than `max_bytes` ends it, and so does silence for one and a half times `heartbeat` seconds.
    """

    def __init__(self, *, dialled: bool, max_bytes: int, heartbeat: float) -> None:
        self._masks = dialled
        self._max_bytes = max_bytes
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until take_over
        self._older: asyncio.BaseProtocol | None = None
        self._heard: Callable[[Said], bool] = lambda _: False
        self._writable: Callable[[], None] = lambda: None
        self.full = False
        """Whether more than a little that was said has not left yet."""
        self.code = LOST
        """Why it has ended, once it has."""
        self.reason = ""
        self._closing = False
        self._lost_track = False
        """What comes is no frame any more that could be told from the next."""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = 0
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._end = 0
        """Of what has come and is less than a frame."""
        self._piece: memoryview | None = None
        """What is being read of a large frame."""
        self._filled = 0
        self._left = 0
        """Bytes of that frame after this piece."""
        self._key: bytes | None = None
        self._first = 0
        self._kind = 0
        """Of the message that has begun."""
        self._pieces: list[Buffer] = []
        self._size = 0
        self._queue: deque[Said] = deque()
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None

    def take_over(self, transport: asyncio.Transport, older: asyncio.BaseProtocol) -> None:
        """The handshake is done; `older` made it, and hears when the connection is lost."""
        self._transport, self._older = transport, older
        transport.set_protocol(self)
        if transport.is_closing():
            self.connection_lost(None)
        else:
            self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)

    def listen(self, heard: Callable[[Said], bool], writable: Callable[[], None]) -> None:
        """`heard` gets each message that comes while `receive` waits: True, if that is all there is to do about it.

        `writable` is called when the connection is not full any more.
        """
        self._heard, self._writable = heard, writable

    # --- what is said

    def send(self, *parts: Buffer | str) -> None:
        """A message, of bytes or of one text. Nothing, once the connection is being closed."""
        if self._closing:
            return
        if isinstance(parts[0], str):
            self._write(_FINAL | _TEXT, parts[0].encode())
        else:
            self._write(_FINAL | _BINARY, *cast("tuple[Buffer, ...]", parts))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Says so, and lets what was said before reach the other side, if it reads. No more is heard of it."""
        if self._closing:
            return
        text = reason.encode()[: _MOST_CONTROL - _CODE.size].decode(errors="ignore")
        self._write(_FINAL | _CLOSE, _CODE.pack(code), text.encode())
        self._closing, self.code, self.reason = True, code, reason
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_SECONDS, self._transport.abort)
        self._wake()

    def abort(self) -> None:
        self._transport.abort()

    async def closed(self) -> None:
        """Returns once the connection is gone; soon after `close`, whatever the other side does."""
        await asyncio.shield(self._ended)

    def _write(self, first: int, *parts: Buffer) -> None:
        size, mask = sum(map(len, parts)), _MASKED if self._masks else 0
        if size <= _MOST_CONTROL:
            header = bytes((first, mask | size))
        elif size < 2**16:
            header = _MEDIUM.pack(first, mask | _IN_TWO, size)
        else:
            header = _LARGE.pack(first, mask | _IN_EIGHT, size)
        if self._masks:  # by a fresh key each: what other parties wrote must not look like HTTP on the way
            key = secrets.token_bytes(_KEY_BYTES)
            header, parts = header + key, (_masked(b"".join(parts), key),)
        if size <= _JOINED_BYTES:
            self._transport.write(b"".join((header, *parts)))
            return
        small = [header]
        for part in parts:
            if len(part) <= _JOINED_BYTES:
                small.append(cast("bytes", part))
                continue
            self._transport.write(b"".join(small))
            self._transport.write(part)
            small.clear()
        if small:
            self._transport.write(b"".join(small))

    # --- what is heard

    async def receive(self) -> Said | None:
        """The next message; None: there will be none."""
        while not self._queue:
            if self._closing:
                return None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._queue.popleft()
        self._waiting -= len(message)
        if self._waiting <= _MOST_WAITING:
            self._transport.resume_reading()
        return message

    def _message(self, kind: int, payload: Buffer) -> None:
        if self._closing:
            return
        try:
            message = str(payload, "utf-8") if kind == _TEXT else cast("bytes | bytearray", payload)
        except UnicodeDecodeError:
            raise _Violation(NOT_TEXT, "expected UTF-8 in a text message") from None
        listening = self._waiter is not None and not self._waiter.done()
        if listening and self._heard(message):
            return
        self._queue.append(message)
        self._waiting += len(message)
        self._wake()
        if self._waiting > _MOST_WAITING:
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _control(self, kind: int, payload: Buffer) -> None:
        if kind == _PING:
            if not self.full and not self._transport.is_closing():
                self._write(_FINAL | _PONG, payload)
        elif kind == _CLOSE:
            if not self._closing:
                self.close()
                self.code = _CODE.unpack_from(payload)[0] if len(payload) >= _CODE.size else NORMAL
                self.reason = str(payload[_CODE.size :], "utf-8", "replace")
            self._transport.close()

    # --- what the event loop calls

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view[self._end :] if self._piece is None else self._piece[self._filled :]

    def buffer_updated(self, size: int) -> None:
        self._quiet = 0
        if self._lost_track:
            return
        try:
            if self._piece is None:
                self._end += size
                self._frames()
            else:
                self._filled += size
                if self._filled == len(self._piece):
                    self._piece_read(self._piece)
        except _Violation as violation:
            self._lost_track = True
            self._end, self._piece = 0, None  # what still comes is read to nowhere
            self.close(violation.code, violation.reason)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._writable()

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        self._ended.set_result(None)
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        if self._older is not None:
            self._older.connection_lost(error)

    def _beat(self) -> None:
        self._quiet += self._transport.is_reading()  # else it is this side that does not listen
        if self._quiet >= _GIVE_UP_AFTER:
            self.reason = f"nothing came for {self._quiet * self._heartbeat / 2:g} s"
            self._transport.abort()
            return
        if self._quiet == _ASK_AFTER:
            self._write(_FINAL | _PING)
        self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)

    # --- frames

    def _frames(self) -> None:
        """Takes all frames that are in the buffer."""
        view, at, end = self._view, 0, self._end
        while (header := _header(view, at, end)) is not None:
            first, start, size, key = header
            self._check(first, size, masked=key is not None)
            if start + size > end:
                if size > _APART_BYTES:
                    self._begin(first, size, key, view[start:end])
                    at = end
                break
            at = start + size
            payload = view[start:at].tobytes() if key is None else _masked(view[start:at], key)
            self._frame(first, payload)
        self._end = rest = end - at
        if at and rest:
            view[:rest] = view[at:end]

    def _check(self, first: int, size: int, *, masked: bool) -> None:
        kind = first & _KIND
        if masked is self._masks:
            raise _Violation(PROTOCOL_ERROR, "expected masked frames from whoever dialled, and from nobody else")
        if first & _RESERVED or kind not in {_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG}:
            raise _Violation(PROTOCOL_ERROR, f"expected a frame without extensions, got one that begins with {first}")
        if kind & _IS_CONTROL:
            if size > _MOST_CONTROL or not first & _FINAL:
                raise _Violation(PROTOCOL_ERROR, f"expected a control frame of at most {_MOST_CONTROL} bytes, whole")
            return
        if (kind == _CONTINUED) != bool(self._kind):
            raise _Violation(PROTOCOL_ERROR, "expected a message's frames one after the other")
        if len(self._pieces) >= _MOST_PIECES:
            raise _Violation(TOO_BIG, f"expected a message in at most {_MOST_PIECES} pieces, got more")
        if self._size + size > self._max_bytes:
            raise _Violation(TOO_BIG, f"expected at most {self._max_bytes} bytes, got {self._size + size}")

    def _frame(self, first: int, payload: bytes) -> None:
        kind = first & _KIND
        if kind & _IS_CONTROL:
            self._control(kind, payload)
        elif first & _FINAL and not self._kind:
            self._message(kind, payload)
        else:
            self._part(first, payload)

    def _part(self, first: int, payload: Buffer, *, last: bool = True) -> None:
        """A message in parts: frames, or pieces of a large one; `last` of its frame."""
        self._kind = self._kind or first & _KIND
        self._pieces.append(payload)
        self._size += len(payload)
        if last and first & _FINAL:
            kind, pieces = self._kind, self._pieces
            self._kind, self._pieces, self._size = 0, [], 0
            self._message(kind, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _begin(self, first: int, size: int, key: bytes | None, begun: memoryview) -> None:
        """A frame that is too large to wait for in the buffer."""
        self._first, self._key, self._left = first, key, size
        self._next_piece()
        assert self._piece is not None  # noqa: S101 - the frame is not empty
        self._filled = len(begun)
        self._piece[: self._filled] = begun

    def _next_piece(self) -> None:
        size = min(self._left, _PIECE_BYTES)
        self._left -= size
        self._filled, self._piece = 0, memoryview(bytearray(size)) if size else None

    def _piece_read(self, piece: memoryview) -> None:
        payload = cast("bytearray", piece.obj) if self._key is None else _masked(piece, self._key)
        last = not self._left
        self._next_piece()
        self._part(self._first, payload, last=last)


def _header(view: memoryview, at: int, end: int) -> tuple[int, int, int, bytes | None] | None:
    """Of the frame at `at`: its first byte, where its payload begins, of how many bytes, and the key that masks it."""
    start = at + 2
    if start > end:
        return None
    second = view[at + 1]
    size = second & _SIZE
    if size > _MOST_CONTROL:
        extended = _TWO if size == _IN_TWO else _EIGHT
        if start + extended.size > end:
            return None
        (size,) = extended.unpack_from(view, start)
        start += extended.size
    if not second & _MASKED:
        return view[at], start, size, None
    if start + _KEY_BYTES > end:
        return None
    return view[at], start + _KEY_BYTES, size, view[start : start + _KEY_BYTES].tobytes()


def _masked(data: Buffer, key: bytes) -> bytes:
    """Masks, or unmasks."""
    size = len(data)
    whole = -(-size // _KEY_BYTES)
    if size <= _FEW_BYTES:
        return (int.from_bytes(data, "big") ^ int.from_bytes((key * whole)[:size], "big")).to_bytes(size, "big")
    padded = data if size == whole * _KEY_BYTES else b"".join((data, bytes(whole * _KEY_BYTES - size)))
    found = (np.frombuffer(padded, np.uint32) ^ np.frombuffer(key, np.uint32)).tobytes()
    return found if padded is data else found[:size]
