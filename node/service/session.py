"""The session with the orchestrator: dialled, proven, kept alive, and dialled again."""

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

from node.core.session import (
    Challenged,
    Close,
    Deliver,
    Effect,
    Expectation,
    NodeSession,
    Opened,
    Orchestrator,
    Send,
)
from node.core.standing import Topic
from node.ports.dialling import Connection, Dialler
from node.service.attempts import Attempts
from node.service.books import Books
from node.service.link import Link
from node.service.notes import Notes
from node.service.online import Online, Requests
from node.service.payments import Payments
from node.service.terms import Terms
from node.service.usage import Usage
from tandem import logging as log
from tandem.clock import Clock
from tandem.outbox import Outbox
from tandem.protocol.codec import Envelope, decode, encode
from tandem.protocol.errors import TandemError, Unavailable, error_from_wire
from tandem.protocol.messages import (
    Assign,
    Cancel,
    Heartbeat,
    HeartbeatReply,
    LoadModel,
    Payment,
    Problem,
    TicketTermsReply,
    UnloadModel,
    UsageWindow,
    Verdict,
    Welcome,
)
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.streams import Streams, is_stream
from tandem.websocket import Said

logger = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 10.0
_LAST_WORDS_SECONDS = 1.0
_MIN_HEARTBEAT_SECONDS = 0.1
_MAX_UNSENT = 10_000
"""Messages that wait for an orchestrator to read; one that goes on asking and does not is left."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before dialling again: doubled from `first` to `most`, each time a random part of it.

    Random, so that a thousand nodes do not come back at once. Never as long as a lease: attempts outlive the
    orchestrator's restart only if their node is back within one.
    """

    first: float = 0.5
    most: float = 10.0

    def seconds(self, failures: int) -> float:
        return random.uniform(0.5, 1.0) * min(self.most, self.first * 2.0 ** min(failures, 32))  # noqa: S311


@dataclass(frozen=True, slots=True)
class Services:
    """Who hears what the orchestrator says."""

    attempts: Attempts
    online: Online
    payments: Payments
    usage: Usage
    terms: Terms
    books: Books
    link: Link
    notes: Notes


class Sessions:
    """One session after the other, until cancelled."""

    def __init__(
        self,
        dialler: Dialler,
        expectation: Expectation,
        key: SigningKey,
        services: Services,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._dialler = dialler
        self._expectation = expectation
        self._key = key
        self._to = services
        self._clock = clock
        self._backoff = backoff or Backoff()

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            conversation = _Conversation(self._to, self._clock, self._machine())
            try:
                await self._hold(conversation)
            except* TandemError as group:
                error: TandemError = _first(group)
            if (this := asyncio.current_task()) and this.cancelling():  # a group that also failed has hidden it
                raise asyncio.CancelledError
            failures = 0 if conversation.opened else failures + 1
            wait = self._backoff.seconds(failures)
            self._to.notes.say(Topic.SESSION, f"none: {error.code}: {error.detail}")
            log.event(logger, "session_ended", code=error.code, detail=error.detail, seconds_to_next=round(wait, 1))
            await self._clock.sleep(wait)

    def _machine(self) -> NodeSession:
        return NodeSession(self._expectation, self._key, secrets.token_bytes(32))

    async def _hold(self, conversation: "_Conversation") -> None:
        """Always ends by an error: the one that the connection, or the session on it, broke with."""
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS) as deadline, self._dialler.dial() as connection:
                await conversation.hold(connection, deadline)
        except TimeoutError:
            raise Unavailable(f"expected a session within {_HANDSHAKE_SECONDS:.0f} s, there was none") from None


class _Conversation:
    """One session on one connection."""

    def __init__(self, services: Services, clock: Clock, machine: NodeSession) -> None:
        self.opened = False
        self._to = services
        self._clock = clock
        self._machine = machine
        self._streams = Streams(requests=False)
        self._queue = Outbox(self._streams)
        self._sender: Address | None = None
        self._requests: Requests | None = None
        """Once the session is open."""
        self._violation: TandemError | None = None
        """Of the orchestrator's, in a message of streams."""

    async def hold(self, connection: Connection, deadline: asyncio.Timeout) -> None:
        """Until it breaks, with the error that broke it; `deadline` is lifted once the session is open."""
        connection.listen(self._hear, self._queue.ring)
        self._queue.open(connection)
        self._say(self._machine.hello())
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    message = await connection.receive()
                    if self._unsent > _MAX_UNSENT:
                        raise Unavailable(
                            f"expected the orchestrator to read what it is told, {_MAX_UNSENT} messages wait"
                        )
                    if not self._hear(message):
                        for effect in self._receive(message):
                            await self._perform(effect, group, deadline)
        finally:
            self._to.link.detach(self._queue)
            if self._requests is not None:
                self._requests.close()

    @property
    def _unsent(self) -> int:
        return max(len(self._queue), self._streams.unsent)

    def _hear(self, message: Said) -> bool:
        """Takes a message of streams once the session is open; False for all else, and what breaks the rules.

        None is taken while too much waits to be said, which is for `hold` to see.
        """
        if isinstance(message, str) or not is_stream(message) or self._requests is None:
            return False
        if self._violation is not None or self._unsent > _MAX_UNSENT:
            return False
        try:
            self._requests.receive(message)
        except TandemError as error:
            self._violation = error
            return False
        return True

    def _receive(self, message: Said) -> Sequence[Effect]:
        try:
            if self._violation is not None:
                raise self._violation
            return self._machine.receive(decode(message if isinstance(message, str) else bytes(message)))
        except TandemError as error:
            return self._machine.refuse(error)

    async def _perform(self, effect: Effect, group: asyncio.TaskGroup, deadline: asyncio.Timeout) -> None:
        match effect:
            case Send():
                self._say(effect)
            case Challenged(orchestrator):
                await self._prove(orchestrator)
            case Opened(welcome):
                deadline.reschedule(None)
                self._open(welcome)
                group.create_task(self._beat(max(welcome.heartbeat, _MIN_HEARTBEAT_SECONDS)))
            case Deliver(envelope):
                await self._deliver(envelope)
            case Close(code, detail):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_SECONDS):
                        await self._queue.join()
                raise error_from_wire(code, detail, retryable=False)
            case _:
                assert_never(effect)

    async def _prove(self, orchestrator: Orchestrator) -> None:
        self._sender = orchestrator.sender
        await self._to.books.open(orchestrator.sender)
        for effect in self._machine.prove(self._to.attempts.offer, self._to.attempts.held()):
            self._say(effect)

    def _open(self, welcome: Welcome) -> None:
        assert self._sender is not None  # noqa: S101 - the challenge came before
        self.opened = True
        self._to.link.attach(self._queue)
        self._requests = self._to.online.opened(self._sender, self._streams, self._queue.ring)
        self._to.attempts.resume(welcome.keep)
        self._to.usage.opened(self._sender, welcome.usage)
        self._to.terms.opened(self._sender, welcome.limits)
        self._to.notes.say(Topic.SESSION)
        self._to.notes.say(Topic.PROBLEM)
        self._to.notes.say(Topic.SENDER, self._sender)
        log.event(logger, "session_opened", sender=self._sender, kept=len(welcome.keep))

    async def _deliver(self, envelope: Envelope) -> None:  # noqa: C901 - one arm a message
        assert self._sender is not None  # noqa: S101 - the challenge came before
        match envelope.message:
            case Assign() as assign:
                self._to.attempts.assign(self._sender, assign, envelope.tensors)
            case Verdict() as verdict:
                await self._to.attempts.judged(self._sender, verdict)
            case Cancel() as cancel:
                await self._to.attempts.cancelled(self._sender, cancel)
            case LoadModel() as load:
                self._to.online.load(load)
            case UnloadModel(model=model):
                self._to.online.unload(model)
            case HeartbeatReply(lost=lost):
                self._to.attempts.lost(lost)
            case Payment() | TicketTermsReply() as message:
                self._to.payments.receive(self._sender, message)
            case UsageWindow() as window:
                self._to.usage.receive(self._sender, window)
            case Problem(code=code, detail=detail):
                self._to.notes.say(Topic.PROBLEM, detail)
                log.event(logger, "problem", level=logging.WARNING, code=code, detail=detail)
            case _:
                raise AssertionError(f"the session let {envelope.message.type} through")

    async def _beat(self, seconds: float) -> None:
        while True:
            await self._clock.sleep(seconds)
            self._to.link.send(Heartbeat(attempts=self._to.attempts.running()))

    def _say(self, effect: Send) -> None:
        self._queue.put_nowait(encode(Envelope(effect.message)))


def _first(group: BaseExceptionGroup[TandemError]) -> TandemError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
