"""Streams: whatever is asked, in whatever order the frames of both sides pass each other, each side hears it whole.

And both count the same: an answer that the node has said is one that the orchestrator hears of, cancelled or not.
"""

import contextlib
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tandem.protocol import streams
from tandem.protocol.errors import CreditExceeded, ExecutionFailed, NoCapacity, ProtocolError, StreamViolation, TooLarge
from tandem.protocol.streams import (
    CHUNK_BYTES,
    MAX_BODY_BYTES,
    MAX_OPEN_BYTES,
    MAX_STREAMS,
    STREAM_WINDOW,
    Abandoned,
    Cancelled,
    Event,
    Refused,
    Requested,
    Responded,
    Streams,
    is_stream,
)

SMALL = {"CHUNK_BYTES": 64, "STREAM_WINDOW": 200, "SESSION_WINDOW": 800, "MAX_MESSAGE_BYTES": 150, "_FOR_SMALL": 200}
"""So that a few hundred bytes meet every bound."""
SIZES = st.one_of(st.integers(0, 80), st.integers(0, 2000))


@dataclass
class Pair:
    """Both sides, and what is on the wire between them."""

    orchestrator: Streams = field(default_factory=lambda: Streams(requests=True))
    node: Streams = field(default_factory=lambda: Streams(requests=False))
    to_node: deque[bytes] = field(default_factory=deque)
    to_orchestrator: deque[bytes] = field(default_factory=deque)

    def say(self, *, node: bool) -> bool:
        """One side writes what it has to say, a piece at the most; False: it has nothing."""
        side, wire = (self.node, self.to_orchestrator) if node else (self.orchestrator, self.to_node)
        small, piece = side.take(), side.chunk()
        messages = [b"".join(parts) for parts in ((small,) if small else None, piece) if parts is not None]
        wire.extend(messages)
        return bool(messages)

    def hear(self, *, node: bool) -> list[Event]:
        side, wire = (self.node, self.to_node) if node else (self.orchestrator, self.to_orchestrator)
        return side.receive(wire.popleft()) if wire else []

    def settle(self) -> list[Event]:
        """All that is heard until neither side has anything to say."""
        heard: list[Event] = []
        while any([self.say(node=False), self.say(node=True), self.to_node, self.to_orchestrator]):
            while self.to_node or self.to_orchestrator:
                heard += self.hear(node=True) + self.hear(node=False)
        return heard


def data(size: int, seed: int) -> bytes:
    return bytes((seed + index * 7) % 251 for index in range(min(size, 251))) * (size // 251 + 1)


class Talk(RuleBasedStateMachine):
    """Requests, answers, failures and cancellations at any moment, and every order of delivery."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for name, value in SMALL.items():
            self.patch.setattr(streams, name, value)
        self.pair = Pair()
        self.count = 0
        self.asked: dict[int, tuple[bytes, bytes]] = {}
        self.answers: dict[int, tuple[bytes, bytes] | None] = {}
        self.at_node: set[int] = set()
        self.cancelled: set[int] = set()
        self.served: set[int] = set()
        self.paid: set[int] = set()

    @rule(size=SIZES, head=st.binary(max_size=20))
    def request(self, size: int, head: bytes) -> None:
        self.count += 1
        body = data(size, self.count)[:size]
        half = size // 2
        stream = self.pair.orchestrator.request(head, [body[:half], memoryview(body)[half:]])
        self.asked[stream] = head, body

    @rule(size=SIZES, pick=st.randoms())
    def respond(self, size: int, pick: "st.DrawFn") -> None:
        if self.at_node:
            stream = pick.choice(sorted(self.at_node))  # type: ignore[attr-defined]
            self.at_node.discard(stream)
            body = data(size, stream)[:size]
            self.respond_with(stream, b"head", body)

    def respond_with(self, stream: int, head: bytes, body: bytes) -> None:
        self.answers[stream] = head, body
        if self.pair.node.respond(stream, head, [body]):
            self.served.add(stream)

    @rule(pick=st.randoms())
    def fail(self, pick: "st.DrawFn") -> None:
        if self.at_node:
            stream = pick.choice(sorted(self.at_node))  # type: ignore[attr-defined]
            self.at_node.discard(stream)
            self.answers[stream] = None
            self.pair.node.fail(stream, ExecutionFailed("expected numbers"))

    @rule(pick=st.randoms())
    def cancel(self, pick: "st.DrawFn") -> None:
        if self.asked:
            stream = pick.choice(sorted(self.asked))  # type: ignore[attr-defined]
            self.cancelled.add(stream)
            event = self.pair.orchestrator.cancel(stream)
            self.check([event] if event is not None else [])

    @rule(node=st.booleans())
    def say(self, node: bool) -> None:
        self.pair.say(node=node)

    @rule(node=st.booleans())
    def hear(self, node: bool) -> None:
        self.check(self.pair.hear(node=node))

    def check(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Requested(stream, head, body):
                    assert (head, bytes(body)) == self.asked.get(stream, (head, bytes(body)))
                    self.at_node.add(stream)
                case Cancelled(stream):
                    assert stream in self.cancelled
                    self.at_node.discard(stream)
                    self.pair.node.fail(stream, NoCapacity("cancelled"))
                case Responded(stream, head, body):
                    assert (head, bytes(body)) == self.answers[stream]
                    self.paid.add(stream)
                    del self.asked[stream]
                case Abandoned(stream, head, size, _):
                    answer = self.answers[stream]
                    assert answer is not None
                    assert stream in self.cancelled
                    assert (head, size) == (answer[0], len(answer[1]))
                    self.paid.add(stream)
                    del self.asked[stream]
                case Refused(stream, error):
                    if stream not in self.cancelled:
                        assert self.answers[stream] is None
                        assert isinstance(error, ExecutionFailed)
                        assert error.detail == "expected numbers"
                    del self.asked[stream]

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "pair"):
            for side in (self.pair.orchestrator, self.pair.node):
                assert side._credit >= 0
                assert 0 <= side._held <= MAX_OPEN_BYTES

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.patch.undo()

    def finish(self) -> None:
        for _ in range(3):  # what is heard may lead to more
            self.check(self.pair.settle())
            for stream in sorted(self.at_node):
                self.at_node.discard(stream)
                self.respond_with(stream, b"", b"")
        assert not self.asked
        assert self.served == self.paid
        assert len(self.pair.node) == len(self.pair.orchestrator) == 0
        assert self.pair.node._held == self.pair.orchestrator._held == 0


Talk.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTalk = Talk.TestCase


def opening(kind: int, stream: int, head: int, body: int, given: bytes = b"", length: int | None = None) -> bytes:
    size = streams._OPENING.size + len(given) if length is None else length
    return streams._OPENING.pack(kind << 24 | size, stream, head, body) + given


REQUEST, RESPONSE, DATA, FAILED, CANCEL, CREDIT = range(1, 7)


@pytest.mark.parametrize(
    "message",
    [
        b"\0\0\0\1",
        opening(REQUEST, 0, 0, 0),
        opening(REQUEST, 5, 0, 0),
        opening(RESPONSE, 5, 0, 0),
        opening(FAILED, 5, 0, 0),
        opening(9, 5, 0, 0),
        opening(REQUEST, 6, 4, 0, b"abc"),
        opening(REQUEST, 6, 0, 1, b"abc"),
        opening(REQUEST, 6, 2**31, 0, b"abc"),
        opening(REQUEST, 6, 0, MAX_BODY_BYTES + 1),
        opening(REQUEST, 6, 0, 2**63),
        opening(REQUEST, 6, 0, 10, b"abc", length=7),
        opening(REQUEST, 6, 0, 10, b"abc", length=2**24 - 1),
        opening(REQUEST, 6, 0, CHUNK_BYTES + 1, bytes(CHUNK_BYTES + 1)),
        streams._prefix(REQUEST, 6),
        streams._prefix(DATA, 77, 1) + b"x",
        streams._prefix(DATA, 5, 1) + b"x",
        streams._prefix(CREDIT, 0),
        streams._prefix(CREDIT, 0, 5) + b"12345",
        streams._prefix(CREDIT, 0, 4) + b"\xff\xff\xff\xff",
        opening(REQUEST, 6, 0, 4) + streams._prefix(DATA, 6, 5) + b"12345",
        opening(REQUEST, 6, 0, 4) + streams._prefix(DATA, 6),
    ],
)
def test_a_hostile_message_to_a_node_has_a_named_error(message: bytes) -> None:
    node = Streams(requests=False)
    node.receive(opening(REQUEST, 5, 0, 0))
    with pytest.raises(StreamViolation, match="expected"):
        node.receive(message)


@pytest.mark.parametrize(
    "message",
    [
        opening(REQUEST, 1, 0, 0),
        opening(RESPONSE, 2, 0, 0),
        streams._prefix(CANCEL, 1),
        streams._prefix(FAILED, 2, 2) + b"\1\0",
        streams._prefix(FAILED, 1),
        streams._prefix(FAILED, 1, 5000) + bytes(5000),
        opening(RESPONSE, 1, 0, 4) + opening(RESPONSE, 1, 0, 4),
    ],
)
def test_a_hostile_message_to_an_orchestrator_has_a_named_error(message: bytes) -> None:
    orchestrator = Streams(requests=True)
    assert orchestrator.request(b"", []) == 1
    with pytest.raises(StreamViolation, match="expected"):
        orchestrator.receive(message)


@given(st.booleans(), st.binary(max_size=80))
def test_noise_is_taken_or_has_a_named_error(requests: bool, noise: bytes) -> None:
    side = Streams(requests=requests)
    if requests:
        side.request(b"", [])
    with contextlib.suppress(ProtocolError):
        side.receive(noise)


def test_a_response_to_a_request_that_was_not_sent_whole_is_a_violation() -> None:
    orchestrator = Streams(requests=True)
    stream = orchestrator.request(b"", [bytes(CHUNK_BYTES + 1)])
    with pytest.raises(StreamViolation, match="sent whole"):
        orchestrator.receive(opening(RESPONSE, stream, 0, 0))
    with pytest.raises(StreamViolation, match="is open"):
        orchestrator.receive(streams._prefix(FAILED, stream, 2) + b"\1\0")


def test_who_sends_more_than_the_windows_is_caught() -> None:
    node = Streams(requests=False)
    node.receive(opening(REQUEST, 1, 0, 2 * STREAM_WINDOW))
    piece = streams._prefix(DATA, 1, CHUNK_BYTES) + bytes(CHUNK_BYTES)
    node._streams[1].incoming.allowance = CHUNK_BYTES - 1  # type: ignore[union-attr]
    with pytest.raises(CreditExceeded, match="on a stream"):
        node.receive(piece)
    node._allowance = 10
    with pytest.raises(CreditExceeded, match="on the session"):
        node.receive(opening(REQUEST, 2, 0, 11, bytes(11)))


def test_an_early_refusal_ends_a_request_that_is_still_being_sent() -> None:
    pair = Pair()
    stream = pair.orchestrator.request(b"", [bytes(4 * STREAM_WINDOW)])
    pair.say(node=False)
    pair.hear(node=True)
    pair.node.fail(stream, ExecutionFailed("expected less"))
    (refused,) = pair.settle()
    assert isinstance(refused, Refused)
    assert not pair.node._ended
    assert len(pair.node) == len(pair.orchestrator) == 0


def test_too_many_bytes_at_once_are_refused_and_the_session_goes_on() -> None:
    pair = Pair()
    body = bytes(MAX_BODY_BYTES)
    for _ in range(MAX_OPEN_BYTES // MAX_BODY_BYTES + 1):
        pair.orchestrator.request(b"", [body])
    heard = pair.settle()
    assert sum(isinstance(event, Requested) for event in heard) == MAX_OPEN_BYTES // MAX_BODY_BYTES
    (refused,) = [event for event in heard if isinstance(event, Refused)]
    assert isinstance(refused.error, NoCapacity)


def test_too_large_an_answer_for_what_is_open_is_owed_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    stream = pair.orchestrator.request(b"", [])
    pair.settle()
    monkeypatch.setattr(streams, "MAX_OPEN_BYTES", CHUNK_BYTES)
    assert pair.node.respond(stream, b"head", [bytes(2 * CHUNK_BYTES)])
    (abandoned,) = pair.settle()
    assert isinstance(abandoned, Abandoned)
    assert (abandoned.head, abandoned.size) == (b"head", 2 * CHUNK_BYTES)
    assert isinstance(abandoned.error, NoCapacity)
    assert len(pair.node) == len(pair.orchestrator) == 0


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_large_answer_is_owed_once_it_is_said_however_little_of_it_went_out(pieces: int) -> None:
    pair = Pair()
    stream = pair.orchestrator.request(b"", [])
    pair.settle()
    assert pair.node.respond(stream, b"head", [bytes(3 * CHUNK_BYTES)])
    heard: list[Event] = []
    for _ in range(pieces):
        pair.say(node=True)
        heard += pair.hear(node=False)
    event = pair.orchestrator.cancel(stream)
    assert (event is not None) == (pieces > 0)
    heard += [event] if event is not None else []
    (abandoned,) = heard + pair.settle()
    assert isinstance(abandoned, Abandoned)
    assert len(pair.node) == len(pair.orchestrator) == pair.orchestrator._held == 0


def test_what_no_message_may_be_is_not_begun() -> None:
    orchestrator = Streams(requests=True)
    with pytest.raises(TooLarge):
        orchestrator.request(b"", [bytes(MAX_BODY_BYTES), b"x"])
    for _ in range(MAX_STREAMS):
        orchestrator.request(b"", [])
    with pytest.raises(NoCapacity, match="fewer than 1024"):
        orchestrator.request(b"", [])


def test_a_small_request_waits_for_one_piece_of_a_large_one_at_most() -> None:
    pair = Pair()
    pair.orchestrator.request(b"large", [bytes(60 * 2**20)])
    pair.say(node=False)
    small = pair.orchestrator.request(b"small", [bytes(4096)])
    before = len(pair.to_node)
    pair.say(node=False)
    assert before == 1  # a piece of the large one
    heard = [event for _ in range(3) for event in pair.hear(node=True)]
    assert [event.stream for event in heard] == [small]


def test_large_ones_take_turns() -> None:
    pair = Pair()
    for _ in range(3):
        pair.orchestrator.request(b"", [bytes(STREAM_WINDOW)])
    pieces = [pair.orchestrator.chunk() for _ in range(6)]
    assert [streams._PREFIX.unpack_from(piece[0])[1] for piece in pieces if piece] == [1, 2, 3, 1, 2, 3]


def test_a_small_one_finds_credit_while_large_ones_wait_for_it() -> None:
    orchestrator = Streams(requests=True)
    for _ in range(20):
        orchestrator.request(b"", [bytes(2 * STREAM_WINDOW)])
    while orchestrator.chunk() is not None:
        pass
    orchestrator.request(b"", [bytes(4096)])
    message = orchestrator.take()
    assert message is not None
    assert is_stream(message)
