"""The orchestrator's side of a session: whatever comes, it never opens unproven and never raises."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.session import Close, Deliver, Effect, Identity, OrchestratorSession, Phase, Proven, Send
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import MalformedMessage, ProtocolError, UnknownMessage
from tandem.protocol.handshake import HandshakeTerms, Role
from tandem.protocol.messages import Challenge, Hello, NodeMessage, OrchestratorMessage, Problem, Proof, Welcome
from tandem.protocol.signing import SigningKey
from tests.fixtures.protocol import DOMAIN, LIMITS, NODE, ORIGIN, SENDER, SIGNER, STRANGER, offer
from tests.property.strategies import node_messages, orchestrator_messages

IDENTITY = Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
OFFER = offer()
WELCOME = Welcome(heartbeat=1, lease=3, limits=LIMITS)
modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Said = NodeMessage | OrchestratorMessage | ProtocolError


def hello(nonce: bytes = b"n" * 32) -> Hello:
    return Hello(versions=(1,), address=NODE.address, nonce=nonce)


def proof(nonce: bytes, *, key: SigningKey = NODE, origin: str = ORIGIN, role: Role = Role.NODE) -> Proof:
    """What answers the machine's challenge; only the defaults are right."""
    terms = HandshakeTerms(
        origin=origin,
        chain_id=DOMAIN.chain_id,
        contract=DOMAIN.contract,
        version=1,
        sender=SENDER.address,
        signer=SIGNER.address,
        node=NODE.address,
        node_nonce=b"n" * 32,
        orchestrator_nonce=nonce,
    )
    return Proof(signature=terms.prove(role, key), offer=OFFER)


MINE = b"o" * 32
good = st.sampled_from([hello(), proof(MINE)])
forged = st.sampled_from(
    [
        proof(MINE, key=STRANGER),
        proof(MINE, origin="http://elsewhere:8080"),
        proof(MINE, role=Role.ORCHESTRATOR),
        proof(b"p" * 32),
    ]
)
unreadable = st.sampled_from([MalformedMessage("cut"), UnknownMessage("new")])
anything = good | forged | unreadable | node_messages | orchestrator_messages


@modest
@given(st.lists(anything, max_size=8), st.booleans())
def test_it_opens_only_after_hello_and_proof(sequence: list[Said], greeted: bool) -> None:
    machine = OrchestratorSession(IDENTITY, MINE)
    right = hello()
    heard: list[Said] = [right] if greeted else []
    if greeted:
        machine.receive(Envelope(right))
    for said in sequence:
        before = machine.phase
        effects = machine.refuse(said) if isinstance(said, ProtocolError) else machine.receive(Envelope(said))
        assert not effects or before is not Phase.CLOSED
        assert any(isinstance(e, Close) for e in effects) == (before is not machine.phase is Phase.CLOSED)
        heard.append(said)
        for effect in effects:
            judge(effect, before, heard)
        if machine.phase is Phase.PROVEN:
            assert machine.welcome(WELCOME) == [Send(WELCOME)]
    assert machine.phase is not Phase.OPEN or heard[:2] == [right, proof(MINE)]


def judge(effect: Effect, before: Phase, heard: list[Said]) -> None:
    match effect:
        case Proven(node=node):
            assert (node, heard) == (NODE.address, [hello(), proof(MINE)])
        case Deliver(envelope):
            assert before is Phase.OPEN, envelope
            assert envelope.message is heard[-1]
        case Send(message):
            assert isinstance(message, Challenge | Problem)
        case Close():
            pass


@modest
@given(st.binary(min_size=64, max_size=64))
def test_no_random_signature_opens_it(signature: bytes) -> None:
    machine = OrchestratorSession(IDENTITY, MINE)
    machine.receive(Envelope(hello()))
    effects = machine.receive(Envelope(Proof(signature=signature, offer=OFFER)))
    assert [type(effect) for effect in effects] == [Send, Close]
    assert machine.phase is Phase.CLOSED
    assert machine.welcome(WELCOME) == []
