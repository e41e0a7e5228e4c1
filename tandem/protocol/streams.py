"""Streams: requests on line and their answers over the binary frames of a node session, sans I/O.

The orchestrator opens a stream by a REQUEST; the node ends it by exactly one RESPONSE or FAILED. A message is a head
and a body; what does not fit into its first frame follows in DATA frames, and pieces of different messages take turns.
CANCEL says that the answer is of no use any more: the node ends the stream all the same, mostly by a FAILED, and until
then its number stays taken. An answer that is complete by then is owed: its head is sent in any case, and a FAILED may
come instead of the rest. A stream that is ended before its request was sent whole is confirmed by a CANCEL, after
which nothing of it follows.

A sender may be ahead of CREDIT by a window, of each stream and of the session, in bytes of heads and bodies. Credit is
given as soon as bytes are received: what bounds memory is that a message announces its size, and that so many streams
and so many bytes may be open at once. A large message leaves a part of the session's window to small ones.

A binary message holds one frame or several, one after the other: the small ones that were ready together cost one
write and one read. It is told from a control message by its fourth byte: the kind of the first frame here, and zero
there, where it is part of a length below 2^24.

    0  3 bytes  length of the frame, all of it
    3  1        kind
    4  4        stream, from 1; 0 in the CREDIT of the session
    8           REQUEST, RESPONSE: length of the head (4) and of the body (8), the head, the body's beginning
                DATA: the next bytes of the body
                FAILED: 1 if it may be tried again, else 0 (1); length of the code (1), the code, the detail
                CREDIT: bytes (4)
                CANCEL: nothing
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from tandem.protocol.codec import MAX_FRAME_BYTES
from tandem.protocol.errors import (
    CreditExceeded,
    NoCapacity,
    StreamViolation,
    TandemError,
    TooLarge,
    error_from_wire,
)
from tandem.protocol.stream_parts import Incoming, Outgoing, Stream

Buffer = bytes | bytearray | memoryview

MAX_STREAMS = 1024
"""Open at once."""
MAX_HEAD_BYTES = 2**16
MAX_BODY_BYTES = MAX_FRAME_BYTES
MAX_OPEN_BYTES = 2**28
"""Of all messages that are being received, and at a node of all requests that have no answer yet."""
CHUNK_BYTES = 2**18
"""Of one frame: head and body together."""
MAX_MESSAGE_BYTES = 2**19
"""Of all frames that go out together."""
STREAM_WINDOW = 2**20
SESSION_WINDOW = 2**23
MAX_CREDIT = 2**31

_FOR_SMALL = SESSION_WINDOW // 4
_PREFIX = struct.Struct("<II")
_OPENING = struct.Struct("<IIIQ")
_CREDIT = struct.Struct("<III")
_KIND_BITS = 24
_LENGTH = 2**_KIND_BITS - 1
_NUMBERS = 2**32
_MAX_CODE = 128
_MAX_DETAIL = 4096
_KIND_AT = 3


_REQUEST, _RESPONSE, _DATA, _FAILED, _CANCEL, _CREDIT_KIND = range(1, 7)
_CREDITED = _CREDIT_KIND << _KIND_BITS | _CREDIT.size


class Requested(NamedTuple):
    """To a node: a request is there, whole."""

    stream: int
    head: bytes
    body: memoryview


class Responded(NamedTuple):
    """To an orchestrator: the answer is there, whole."""

    stream: int
    head: bytes
    body: memoryview


class Abandoned(NamedTuple):
    """To an orchestrator: the node has an answer, of which only the head is taken; for that it is owed."""

    stream: int
    head: bytes
    size: int
    """Of the body, as announced."""
    error: TandemError
    """Why it is not taken."""


class Refused(NamedTuple):
    """To an orchestrator: there will be no answer."""

    stream: int
    error: TandemError


class Cancelled(NamedTuple):
    """To a node: the answer is of no use any more; say `fail`, or what there is."""

    stream: int


Event = Requested | Responded | Abandoned | Refused | Cancelled


def is_stream(message: Buffer) -> bool:
    """Whether a binary message belongs to streams, and is no control message."""
    return len(message) > _KIND_AT and message[_KIND_AT] != 0


def _prefix(kind: int, stream: int, size: int = 0) -> bytes:
    """Of a frame with `size` bytes after it."""
    return _PREFIX.pack(kind << _KIND_BITS | _PREFIX.size + size, stream)


class Streams:
    """All streams of one session, on one side. `requests`: this side opens them, as the orchestrator's does.

    What is to be sent lies in `take()` and `chunk()` afterwards: the former is small and goes out at once, the latter
    is a piece of a large message, one whenever the connection has room for it.
    """

    def __init__(self, *, requests: bool) -> None:
        self._requests = requests
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._small: list[bytes] = []
        self._large: deque[Outgoing] = deque()
        self._credit = SESSION_WINDOW
        self._allowance = SESSION_WINDOW
        self._held = 0
        self._ended: dict[int, Incoming] = {}
        """At a node: refused before they were received whole; their rest is still to come."""

    def __len__(self) -> int:
        return len(self._streams)

    # --- what is to be sent

    def take(self) -> bytes | None:
        """All small frames, or as many as one message holds; None: there are none."""
        small, size, count = self._small, 0, 0
        if len(small) == 1:
            self._small = []
            return small[0]
        for frame in small:
            size += len(frame)
            if count and size > MAX_MESSAGE_BYTES:
                break
            count += 1
        self._small = small[count:]
        return b"".join(small[:count]) if count else None

    @property
    def unsent(self) -> int:
        """Small frames that wait."""
        return len(self._small)

    def chunk(self) -> Sequence[Buffer] | None:
        """The next piece of a large message, in parts; None: nothing is left, or there is no credit."""
        for _ in range(len(self._large)):
            outgoing = self._large[0]
            self._large.rotate(-1)
            room = min(CHUNK_BYTES, outgoing.credit, self._credit - _FOR_SMALL)
            if room > len(outgoing.head or b""):
                return self._cut(outgoing, room)
        return None

    def request(self, head: bytes, body: Sequence[Buffer]) -> int:
        """Opens a stream: its number. Raises TooLarge, or NoCapacity if as many are open as may be."""
        size = _bounded(head, body)
        if len(self._streams) >= MAX_STREAMS:
            raise NoCapacity(f"expected fewer than {MAX_STREAMS} requests under way on the node; try another")
        number = self._last % (_NUMBERS - 1) + 1
        while number in self._streams:
            number = number % (_NUMBERS - 1) + 1
        self._last = number
        stream = self._streams[number] = Stream()
        self._send(stream, number, head, body, size)
        return number

    def respond(self, number: int, head: bytes, body: Sequence[Buffer]) -> bool:
        """Ends a stream by its answer. False: it has ended, and nobody will hear of the answer. Raises TooLarge."""
        size = _bounded(head, body)
        stream = self._streams.get(number)
        if stream is None or stream.outgoing is not None:
            return False
        if stream.cancelled:
            self.fail(number, _given_up())
            return False
        self._send(stream, number, head, body, size)
        if stream.outgoing is None:
            self._forget(number)
        return True

    def fail(self, number: int, error: TandemError) -> None:
        """Ends a stream without an answer. One that has ended is left alone."""
        stream = self._streams.get(number)
        if stream is None:
            return
        self._drop(stream)
        self._refuse(number, error)
        self._forget(number)

    def cancel(self, number: int) -> Event | None:
        """Says that the answer is of no use any more. It is Abandoned or Refused all the same: now, or later (None)."""
        stream = self._streams.get(number)
        if stream is None or stream.cancelled:
            return None
        unheard = stream.outgoing is not None and stream.outgoing.head is not None
        stream.cancelled = True
        self._drop(stream)
        if unheard:  # the node does not know of it
            self._forget(number)
            return Refused(number, _given_up())
        self._small.append(_prefix(_CANCEL, number))
        if stream.incoming is None:
            return None
        self._discard(stream, stream.incoming)
        return Abandoned(number, stream.incoming.head, stream.incoming.size, _given_up())

    def _send(self, stream: Stream, number: int, head: bytes, body: Sequence[Buffer], size: int) -> None:
        kind, total = _REQUEST if self._requests else _RESPONSE, len(head) + size
        if total <= CHUNK_BYTES and total <= self._credit:
            self._credit -= total
            opening = _OPENING.pack(kind << _KIND_BITS | _OPENING.size + total, number, len(head), size)
            self._small.append(b"".join((opening, head, *body)))
            return
        parts = deque(view for each in body if (view := memoryview(each)))
        stream.outgoing = Outgoing(number, kind, head, size, parts, STREAM_WINDOW)
        self._large.append(stream.outgoing)

    def _cut(self, outgoing: Outgoing, room: int) -> Sequence[Buffer]:
        """The next frame of a message, of at most `room` bytes."""
        head, outgoing.head = outgoing.head, None
        used = len(head or b"")
        pieces: list[Buffer] = []
        while outgoing.parts and used < room:
            part = outgoing.parts.popleft()
            if len(part) > room - used:
                outgoing.parts.appendleft(part[room - used :])
                part = part[: room - used]
            pieces.append(part)
            used += len(part)
        outgoing.credit -= used
        self._credit -= used
        if not outgoing.parts:
            self._sent(outgoing)
        if head is None:
            return _prefix(_DATA, outgoing.stream, used), *pieces
        word = outgoing.kind << _KIND_BITS | _OPENING.size + used
        return _OPENING.pack(word, outgoing.stream, len(head), outgoing.size) + head, *pieces

    def _sent(self, outgoing: Outgoing) -> None:
        self._large.remove(outgoing)
        stream = self._streams[outgoing.stream]
        stream.outgoing = None
        if stream.cancelled:
            self.fail(outgoing.stream, _given_up())
        elif not self._requests:
            self._forget(outgoing.stream)

    def _drop(self, stream: Stream) -> None:
        """What is left of its message is not sent."""
        if stream.outgoing is not None:
            self._large.remove(stream.outgoing)
            stream.outgoing = None

    def _refuse(self, number: int, error: TandemError) -> None:
        code = error.code.encode()[:_MAX_CODE]
        said = bytes((error.retryable, len(code))) + code + error.detail.encode()[:_MAX_DETAIL]
        self._small.append(_prefix(_FAILED, number, len(said)) + said)

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number)
        self._held -= stream.held
        incoming = stream.incoming
        if incoming is not None and incoming.received < incoming.size:  # a request that is still being sent
            incoming.pieces.clear()
            self._ended[number] = incoming

    # --- what comes

    def receive(self, message: bytes | bytearray) -> list[Event]:
        """What a message leads to. Raises StreamViolation or CreditExceeded, which end the session."""
        events: list[Event] = []
        at, end = 0, len(message)
        while at < end:
            if end - at < _PREFIX.size:
                raise StreamViolation(f"expected a frame of at least {_PREFIX.size} bytes, got {end - at}")
            word, number = _PREFIX.unpack_from(message, at)
            size = word & _LENGTH
            if not _PREFIX.size <= size <= end - at:
                raise StreamViolation(f"expected a frame of {size} bytes, got {end - at}")
            frame = message if size == end else memoryview(message)[at : at + size]
            event = self._frame(word >> _KIND_BITS, number, frame)
            if event is not None:
                events.append(event)
            at += size
        return events

    def _frame(self, kind: int, number: int, frame: Buffer) -> Event | None:
        if kind == (_RESPONSE if self._requests else _REQUEST):
            return self._opened(number, frame)
        if kind == _DATA:
            return self._continued(number, memoryview(frame)[_PREFIX.size :])
        if kind == _CREDIT_KIND:
            self._credited(number, frame)
            return None
        if kind == (_FAILED if self._requests else _CANCEL):
            return self._failed(number, frame) if self._requests else self._cancelled(number)
        raise StreamViolation(f"expected a frame that the other side may send, got one of kind {kind}")

    def _opened(self, number: int, frame: Buffer) -> Event | None:
        if len(frame) < _OPENING.size:
            raise StreamViolation(f"expected a message of at least {_OPENING.size} bytes, got {len(frame)}")
        _, _, head_size, size = _OPENING.unpack_from(frame)
        end, got = _OPENING.size + head_size, len(frame) - _OPENING.size
        self._count(got)
        if head_size > min(MAX_HEAD_BYTES, got) or size > MAX_BODY_BYTES or got > min(head_size + size, CHUNK_BYTES):
            raise StreamViolation(
                f"expected a head of at most {MAX_HEAD_BYTES} bytes, whole, a body of at most {MAX_BODY_BYTES} and a "
                f"frame of at most {CHUNK_BYTES}, got a head of {head_size}, a body of {size} and a frame of {got}"
            )
        stream = self._stream_of(number)
        head, body = bytes(frame[_OPENING.size : end]), memoryview(frame)[end:]
        incoming = stream.incoming = Incoming(head, size, STREAM_WINDOW - got, received=len(body))
        if stream.cancelled:
            incoming.discarded = True
            self._ended_by(number, incoming)
            return Abandoned(number, head, size, _given_up())
        if self._held + size > MAX_OPEN_BYTES:
            return self._turned_away(number, incoming)
        self._held += size
        stream.held = size
        incoming.pieces.append(body)
        return self._ended_by(number, incoming)

    def _stream_of(self, number: int) -> Stream:
        """That of a request that is new, or of a response that is due."""
        stream = self._streams.get(number)
        if self._requests:
            if stream is None or stream.incoming is not None or stream.outgoing is not None:
                raise StreamViolation(f"expected the response to a request that was sent whole, got one to {number}")
            return stream
        if stream is not None or number in self._ended or not number:
            raise StreamViolation(f"expected a request on a stream that is not taken, got one on {number}")
        if len(self._streams) + len(self._ended) >= 2 * MAX_STREAMS:
            raise StreamViolation(f"expected at most {MAX_STREAMS} requests under way, got more")
        stream = self._streams[number] = Stream()
        return stream

    def _continued(self, number: int, data: memoryview) -> Event | None:
        self._count(len(data))
        stream = self._streams.get(number)
        incoming = self._ended.get(number) if stream is None else stream.incoming
        if incoming is None or not 0 < len(data) <= min(incoming.size - incoming.received, CHUNK_BYTES):
            raise StreamViolation(f"expected bytes of a message that is incomplete, got {len(data)} of stream {number}")
        incoming.received += len(data)
        if stream is None:
            if incoming.received == incoming.size:
                del self._ended[number]
            return None
        self._spend(number, incoming, len(data))
        if not incoming.discarded:
            incoming.pieces.append(data)
        return self._ended_by(number, incoming)

    def _ended_by(self, number: int, incoming: Incoming) -> Event | None:
        """The message, if that was its last piece."""
        if incoming.received < incoming.size:
            return None
        pieces, head = incoming.pieces, incoming.head
        incoming.pieces = []
        if self._requests:
            self._forget(number)
        if incoming.discarded:
            return None
        body = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        return Responded(number, head, body) if self._requests else Requested(number, head, body)

    def _turned_away(self, number: int, incoming: Incoming) -> Event | None:
        error = NoCapacity(f"expected at most {MAX_OPEN_BYTES} bytes under way, and {incoming.size} more pass them")
        incoming.discarded = True
        if not self._requests:
            self.fail(number, error)
            return None
        self.cancel(number)
        self._ended_by(number, incoming)
        return Abandoned(number, incoming.head, incoming.size, error)

    def _failed(self, number: int, frame: Buffer) -> Event | None:
        stream = self._streams.get(number)
        at = _PREFIX.size + 2
        unheard = stream is not None and stream.outgoing is not None and stream.outgoing.head is not None
        if stream is None or unheard or not at <= len(frame) <= at + _MAX_CODE + _MAX_DETAIL:
            raise StreamViolation(f"expected the failure of a stream that is open, with a code, got one of {number}")
        end = at + frame[at - 1]
        error = error_from_wire(
            bytes(frame[at:end]).decode(errors="replace"),
            bytes(frame[end:]).decode(errors="replace"),
            retryable=frame[at - 2] == 1,
        )
        if stream.outgoing is not None:
            self.cancel(number)  # which says that nothing of the request will follow
        abandoned = stream.cancelled and stream.incoming is not None
        stream.incoming = None
        self._forget(number)
        return None if abandoned else Refused(number, error)

    def _cancelled(self, number: int) -> Event | None:
        if self._ended.pop(number, None) is not None:
            return None
        stream = self._streams.get(number)
        if stream is None or stream.cancelled:
            return None
        stream.cancelled = True
        incoming = stream.incoming
        if incoming is not None and incoming.received < incoming.size:  # nothing more of it will follow
            stream.incoming = None
        elif stream.outgoing is None:
            return Cancelled(number)
        elif stream.outgoing.head is not None:
            stream.outgoing.parts.clear()
            return None
        self.fail(number, _given_up())
        return None

    def _discard(self, stream: Stream, incoming: Incoming) -> None:
        incoming.discarded = True
        incoming.pieces.clear()
        self._held -= stream.held
        stream.held = 0

    # --- credit

    def _count(self, size: int) -> None:
        """Bytes have come that count against the session's window."""
        self._allowance -= size
        if self._allowance < 0:
            raise CreditExceeded(f"expected at most {SESSION_WINDOW} bytes ahead of credit on the session, got more")
        if self._allowance <= SESSION_WINDOW // 2:
            self._small.append(_CREDIT.pack(_CREDITED, 0, SESSION_WINDOW - self._allowance))
            self._allowance = SESSION_WINDOW

    def _spend(self, number: int, incoming: Incoming, size: int) -> None:
        incoming.allowance -= size
        if incoming.allowance < 0:
            raise CreditExceeded(f"expected at most {STREAM_WINDOW} bytes ahead of credit on a stream, got more")
        if incoming.allowance <= STREAM_WINDOW // 2 and incoming.received < incoming.size:
            self._small.append(_CREDIT.pack(_CREDITED, number, STREAM_WINDOW - incoming.allowance))
            incoming.allowance = STREAM_WINDOW

    def _credited(self, number: int, frame: Buffer) -> None:
        if len(frame) != _CREDIT.size:
            raise StreamViolation(f"expected credit in {_CREDIT.size} bytes, got {len(frame)}")
        _, _, size = _CREDIT.unpack(frame)
        if number:
            stream = self._streams.get(number)
            if stream is None or stream.outgoing is None:  # it was sent whole meanwhile
                return
            total = stream.outgoing.credit = stream.outgoing.credit + size
        else:
            total = self._credit = self._credit + size
        if total > MAX_CREDIT:
            raise CreditExceeded(f"expected at most {MAX_CREDIT} bytes of credit, got {total}")


def _given_up() -> TandemError:
    return NoCapacity("the request was cancelled")


def _bounded(head: bytes, body: Sequence[Buffer]) -> int:
    """Bytes of the body."""
    size = sum(map(len, body))
    if size > MAX_BODY_BYTES or len(head) > MAX_HEAD_BYTES:
        raise TooLarge(
            f"expected tensors of at most {MAX_BODY_BYTES} bytes in all, described in {MAX_HEAD_BYTES}, got {size} in "
            f"{len(head)}; send less at once"
        )
    return size
