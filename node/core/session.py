"""The node's side of a node session, sans I/O: envelopes in, effects out.

Phases: `hello()` is answered by a `Challenge`; one that proves the orchestrator opens the way for `prove()`, which a
`Welcome` answers, and only then is anything else let through. Whatever breaks the rules ends the session with a named
`Problem`; a message type that is not known is refused politely and changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from tandem.protocol.codec import Envelope
from tandem.protocol.errors import (
    ForgedIdentity,
    MalformedMessage,
    MessageOutOfOrder,
    ProtocolError,
    TandemError,
    UnknownMessage,
    VersionMismatch,
)
from tandem.protocol.handshake import HandshakeTerms, Role
from tandem.protocol.messages import (
    PROTOCOL_VERSION,
    Assign,
    Cancel,
    Challenge,
    HeartbeatReply,
    HeldAttempt,
    Hello,
    LoadModel,
    NodeMessage,
    Offer,
    Payment,
    Problem,
    Proof,
    TicketTermsReply,
    UnloadModel,
    UsageWindow,
    Verdict,
    Welcome,
)
from tandem.protocol.signing import Address, SigningKey
from tandem.protocol.tickets import Domain


class Phase(StrEnum):
    CONNECTING = "connecting"
    """The orchestrator's challenge is awaited."""
    CHALLENGED = "challenged"
    """The orchestrator is who it says; `prove()` is due."""
    PROVEN = "proven"
    """The orchestrator's welcome is awaited."""
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Who the node talks to: `sender` backs the tickets, `signer` signed the challenge."""

    sender: Address
    signer: Address


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the node demands of the orchestrator that it dials."""

    origin: str
    """Scheme, host and port that are dialled."""
    domain: Domain
    sender: Address | None = None
    """None: whoever signs; what backs its tickets is checked on the chain in any case."""


@dataclass(frozen=True, slots=True)
class Send:
    message: NodeMessage


@dataclass(frozen=True, slots=True)
class Challenged:
    """The orchestrator has proven who it is; answer with `prove()`."""

    orchestrator: Orchestrator


@dataclass(frozen=True, slots=True)
class Opened:
    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message of an open session, for the services."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Close:
    code: str
    detail: str


Effect = Send | Challenged | Opened | Deliver | Close

_DELIVERED = (
    HeartbeatReply,
    Assign,
    Verdict,
    Cancel,
    LoadModel,
    UnloadModel,
    TicketTermsReply,
    Payment,
    UsageWindow,
    Problem,
)


class NodeSession:
    """One session with an orchestrator. `nonce` is 32 fresh random bytes."""

    def __init__(self, expectation: Expectation, key: SigningKey, nonce: bytes) -> None:
        self.phase = Phase.CONNECTING
        self._expectation = expectation
        self._key = key
        self._nonce = nonce
        self._terms: HandshakeTerms | None = None

    def hello(self) -> Send:
        """The first message."""
        return Send(Hello(versions=(PROTOCOL_VERSION,), address=self._key.address, nonce=self._nonce))

    def receive(self, envelope: Envelope) -> list[Effect]:
        """What a message leads to. Never raises: a broken rule is an effect too."""
        if self.phase is Phase.CLOSED:
            return []
        try:
            return self._step(envelope)
        except ProtocolError as error:
            return self.refuse(error)

    def prove(self, offer: Offer, held: tuple[HeldAttempt, ...]) -> list[Send]:
        """Answers a challenge that held; nothing in any other phase."""
        if self.phase is not Phase.CHALLENGED or self._terms is None:
            return []
        self.phase = Phase.PROVEN
        signature = self._terms.prove(Role.NODE, self._key)
        return [Send(Proof(signature=signature, offer=offer, held=held))]

    def refuse(self, error: TandemError) -> list[Effect]:
        """What a frame that cannot be taken leads to: a polite refusal of an unknown type, else the end."""
        if self.phase is Phase.CLOSED:
            return []
        if not isinstance(error, ProtocolError):
            error = MalformedMessage(error.detail)
        fatal = not isinstance(error, UnknownMessage)
        problem = Send(Problem(code=error.code, detail=error.detail[:4096], fatal=fatal))
        return [problem, *self.close(error.code, error.detail)] if fatal else [problem]

    def close(self, code: str, detail: str) -> list[Effect]:
        if self.phase is Phase.CLOSED:
            return []
        self.phase = Phase.CLOSED
        return [Close(code, detail)]

    def _step(self, envelope: Envelope) -> list[Effect]:
        message = envelope.message
        if isinstance(message, Problem) and (message.fatal or self.phase is not Phase.OPEN):
            return self.close(message.code, message.detail)
        match self.phase, message:
            case Phase.CONNECTING, Challenge():
                return self._check(message)
            case Phase.PROVEN, Welcome():
                self.phase = Phase.OPEN
                return [Opened(message)]
            case Phase.OPEN, _ if isinstance(message, _DELIVERED):
                return [Deliver(envelope)]
            case _:
                raise MessageOutOfOrder(f"expected a message of phase {self.phase}, got {message.type!r}")

    def _check(self, challenge: Challenge) -> list[Effect]:
        expected = self._expectation
        if challenge.version != PROTOCOL_VERSION:
            raise VersionMismatch(f"expected version {PROTOCOL_VERSION}, got {challenge.version}; upgrade one side")
        domain = Domain(chain_id=challenge.chain_id, contract=challenge.contract)
        if domain != expected.domain:
            raise ForgedIdentity(
                f"expected contract {expected.domain.contract} on chain {expected.domain.chain_id}, got "
                f"{domain.contract} on chain {domain.chain_id}; check the node's chain settings"
            )
        if expected.sender not in (None, challenge.sender):
            raise ForgedIdentity(
                f"expected the orchestrator of {expected.sender}, got one of {challenge.sender}; "
                "check the orchestrator's URL and `orchestrator.sender`"
            )
        self._terms = self._terms_of(challenge)
        self._terms.verify(Role.ORCHESTRATOR, challenge.signature)
        self.phase = Phase.CHALLENGED
        return [Challenged(Orchestrator(challenge.sender, challenge.signer))]

    def _terms_of(self, challenge: Challenge) -> HandshakeTerms:
        return HandshakeTerms(
            origin=self._expectation.origin,
            chain_id=challenge.chain_id,
            contract=challenge.contract,
            version=challenge.version,
            sender=challenge.sender,
            signer=challenge.signer,
            node=self._key.address,
            node_nonce=self._nonce,
            orchestrator_nonce=challenge.nonce,
        )
