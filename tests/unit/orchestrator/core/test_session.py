import pytest

from orchestrator.core.session import Close, Identity, OrchestratorSession, Phase, Send
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import MessageOutOfOrder, VersionMismatch
from tandem.protocol.handshake import HandshakeTerms, Role
from tandem.protocol.messages import Challenge, Heartbeat, Hello, NodeMessage, Problem, Proof, Welcome
from tests.fixtures.protocol import DOMAIN, LIMITS, NODE, ORIGIN, SENDER, SIGNER, offer

NONCE = b"o" * 32
HELLO = Hello(versions=(1, 2), address=NODE.address, nonce=b"n" * 32)


@pytest.fixture
def machine() -> OrchestratorSession:
    return OrchestratorSession(Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN), NONCE)


def ended(machine: OrchestratorSession, message: NodeMessage) -> str:
    problem, close = machine.receive(Envelope(message))
    assert isinstance(problem, Send)
    assert isinstance(problem.message, Problem)
    assert isinstance(close, Close)
    assert problem.message.fatal
    assert problem.message.code == close.code
    assert machine.phase is Phase.CLOSED
    return close.code


def test_a_hello_is_answered_by_a_proof_of_identity(machine: OrchestratorSession) -> None:
    (sent,) = machine.receive(Envelope(HELLO))
    assert isinstance(sent, Send)
    challenge = sent.message
    assert isinstance(challenge, Challenge)
    terms = HandshakeTerms(
        origin=ORIGIN,
        chain_id=challenge.chain_id,
        contract=challenge.contract,
        version=challenge.version,
        sender=challenge.sender,
        signer=challenge.signer,
        node=NODE.address,
        node_nonce=HELLO.nonce,
        orchestrator_nonce=challenge.nonce,
    )
    terms.verify(Role.ORCHESTRATOR, challenge.signature)
    assert (challenge.nonce, challenge.signer, challenge.sender) == (NONCE, SIGNER.address, SENDER.address)


def test_no_common_version_ends_it(machine: OrchestratorSession) -> None:
    assert ended(machine, HELLO.model_copy(update={"versions": (2, 3)})) == VersionMismatch.code


@pytest.mark.parametrize("message", [Heartbeat(), Proof(signature=bytes(64), offer=offer())])
def test_a_hello_comes_first(machine: OrchestratorSession, message: NodeMessage) -> None:
    assert ended(machine, message) == MessageOutOfOrder.code


def test_a_hello_comes_once(machine: OrchestratorSession) -> None:
    machine.receive(Envelope(HELLO))
    assert ended(machine, HELLO) == MessageOutOfOrder.code


def test_it_cannot_be_opened_unproven(machine: OrchestratorSession) -> None:
    welcome = Welcome(heartbeat=1, lease=3, limits=LIMITS)
    assert machine.welcome(welcome) == []
    machine.receive(Envelope(HELLO))
    assert machine.welcome(welcome) == []
    assert machine.phase is Phase.PROOF


def test_a_node_that_gives_up_is_not_argued_with(machine: OrchestratorSession) -> None:
    assert machine.receive(Envelope(Problem(code="version_mismatch", detail="no"))) == [Close("version_mismatch", "no")]
    assert machine.phase is Phase.CLOSED
