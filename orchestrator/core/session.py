"""The orchestrator's side of a node session, sans I/O: envelopes in, effects out.

Phases: a `Hello` is answered by a `Challenge`, a `Proof` that holds opens the way for `welcome()`, and only then is
anything else let through. Whatever breaks the rules ends the session with a named `Problem`; once it is open, a message
type that is not known is refused politely and changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from tandem.protocol.codec import Envelope
from tandem.protocol.errors import MessageOutOfOrder, ProtocolError, UnknownMessage, VersionMismatch
from tandem.protocol.handshake import HandshakeTerms, Role
from tandem.protocol.messages import (
    PROTOCOL_VERSION,
    Challenge,
    Failed,
    Finished,
    Heartbeat,
    HeldAttempt,
    Hello,
    ModelStatus,
    Offer,
    OfferUpdate,
    OrchestratorMessage,
    PaymentReceipt,
    Problem,
    Progress,
    Proof,
    TicketTerms,
    UsageReceipt,
    Welcome,
)
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import Domain


class Phase(StrEnum):
    HELLO = "hello"
    PROOF = "proof"
    PROVEN = "proven"
    """Identity and offer are known; `welcome()` opens the session."""
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Send:
    message: OrchestratorMessage


@dataclass(frozen=True, slots=True)
class Proven:
    """The node is who it says; answer with `welcome()`."""

    node: str
    offer: Offer
    held: tuple[HeldAttempt, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message of an open session, for the services."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Close:
    code: str
    detail: str


Effect = Send | Proven | Deliver | Close


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the orchestrator is to its nodes."""

    key: SigningKey
    sender: str
    """The account whose deposit and reserve back the tickets that `key` signs."""
    domain: Domain
    origin: str
    """The public URL that nodes dial: scheme, host and port."""


_DELIVERED = (
    OfferUpdate,
    Heartbeat,
    Progress,
    Finished,
    Failed,
    ModelStatus,
    TicketTerms,
    PaymentReceipt,
    UsageReceipt,
    Problem,
)


class OrchestratorSession:
    """One node's session. `nonce` is 32 fresh random bytes."""

    def __init__(self, identity: Identity, nonce: bytes) -> None:
        self.phase = Phase.HELLO
        self._identity = identity
        self._nonce = nonce
        self._terms: HandshakeTerms | None = None

    def receive(self, envelope: Envelope) -> list[Effect]:
        """What a message leads to. Never raises: a broken rule is an effect too."""
        if self.phase is Phase.CLOSED:
            return []
        try:
            return self._step(envelope)
        except ProtocolError as error:
            return self.refuse(error)

    def refuse(self, error: ProtocolError) -> list[Effect]:
        """What a frame that cannot be taken leads to. Only on an open session may a node be wrong and stay."""
        if self.phase is Phase.CLOSED:
            return []
        fatal = not isinstance(error, UnknownMessage) or self.phase is not Phase.OPEN
        problem = Send(Problem(code=error.code, detail=error.detail[:4096], fatal=fatal))
        return [problem, *self.close(error.code, error.detail)] if fatal else [problem]

    def welcome(self, message: Welcome) -> list[Effect]:
        """Opens a proven session."""
        if self.phase is not Phase.PROVEN:
            return []
        self.phase = Phase.OPEN
        return [Send(message)]

    def close(self, code: str, detail: str) -> list[Effect]:
        if self.phase is Phase.CLOSED:
            return []
        self.phase = Phase.CLOSED
        return [Close(code, detail)]

    def _step(self, envelope: Envelope) -> list[Effect]:
        message = envelope.message
        match self.phase, message:
            case Phase.HELLO, Hello():
                return self._challenge(message)
            case Phase.PROOF, Proof():
                return self._check(message)
            case Phase.OPEN, Problem(fatal=True):
                return [Deliver(envelope), *self.close(message.code, message.detail)]
            case Phase.HELLO | Phase.PROOF | Phase.PROVEN, Problem():
                return self.close(message.code, message.detail)
            case Phase.OPEN, _ if isinstance(message, _DELIVERED):
                return [Deliver(envelope)]
            case _:
                raise MessageOutOfOrder(f"expected the message of phase {self.phase}, got {message.type!r}")

    def _challenge(self, hello: Hello) -> list[Effect]:
        if PROTOCOL_VERSION not in hello.versions:
            raise VersionMismatch(
                f"expected version {PROTOCOL_VERSION} among the node's, got {list(hello.versions)}; upgrade one side"
            )
        identity = self._identity
        self._terms = HandshakeTerms(
            origin=identity.origin,
            chain_id=identity.domain.chain_id,
            contract=identity.domain.contract,
            version=PROTOCOL_VERSION,
            sender=identity.sender,
            signer=identity.key.address,
            node=hello.address,
            node_nonce=hello.nonce,
            orchestrator_nonce=self._nonce,
        )
        self.phase = Phase.PROOF
        challenge = Challenge(
            version=PROTOCOL_VERSION,
            sender=identity.sender,
            signer=identity.key.address,
            chain_id=identity.domain.chain_id,
            contract=identity.domain.contract,
            nonce=self._nonce,
            signature=self._terms.prove(Role.ORCHESTRATOR, identity.key),
        )
        return [Send(challenge)]

    def _check(self, proof: Proof) -> list[Effect]:
        assert self._terms is not None  # noqa: S101 - set by the challenge
        self._terms.verify(Role.NODE, proof.signature)
        self.phase = Phase.PROVEN
        return [Proven(self._terms.node, proof.offer, proof.held)]
