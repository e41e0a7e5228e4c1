import pytest

from node.core.session import (
    Challenged,
    Close,
    Deliver,
    Expectation,
    NodeSession,
    Opened,
    Orchestrator,
    Phase,
    Send,
)
from orchestrator.core.session import Identity, OrchestratorSession, Proven
from orchestrator.core.session import Send as TheirSend
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import InvalidTensor, UnknownMessage
from tandem.protocol.messages import Cancel, Challenge, Message, Problem, Proof, Welcome
from tandem.protocol.signing import SigningKey
from tests.fixtures.node import DOMAIN, LIMITS, NODE, OFFER, SENDER, SIGNER, ref

ORIGIN = "http://orchestrator:8080"
WELCOME = Welcome(heartbeat=1, lease=3, limits=LIMITS)
CANCEL = Cancel(ref=ref(), reason="enough")


def session(sender: str | None = None, **changes: object) -> NodeSession:
    expectation = {"origin": ORIGIN, "domain": DOMAIN, "sender": sender} | changes
    return NodeSession(Expectation(**expectation), NODE, b"\x07" * 32)  # type: ignore[arg-type]


def peer(key: SigningKey = SIGNER, origin: str = ORIGIN) -> OrchestratorSession:
    return OrchestratorSession(Identity(key, SENDER.address, DOMAIN, origin), b"\x08" * 32)


def challenge(ours: NodeSession, theirs: OrchestratorSession | None = None) -> Challenge:
    (answer,) = (theirs or peer()).receive(Envelope(ours.hello().message))
    assert isinstance(answer, TheirSend)
    assert isinstance(answer.message, Challenge)
    return answer.message


def said(effects: list[object]) -> Problem:
    assert isinstance(effects[0], Send)
    assert isinstance(effects[0].message, Problem)
    return effects[0].message


def ends(ours: NodeSession, message: Message, code: str) -> None:
    effects = list[object](ours.receive(Envelope(message)))
    problem = said(effects)
    assert (problem.code, problem.fatal) == (code, True)
    assert effects[1:] == [Close(code, problem.detail)]
    assert ours.phase is Phase.CLOSED


def opened() -> NodeSession:
    ours = session()
    ours.receive(Envelope(challenge(ours)))
    ours.prove(OFFER, ())
    ours.receive(Envelope(WELCOME))
    return ours


def test_both_sides_prove_themselves_and_the_session_opens() -> None:
    ours, theirs = session(SENDER.address), peer()
    effects = ours.receive(Envelope(challenge(ours, theirs)))
    assert effects == [Challenged(Orchestrator(SENDER.address, SIGNER.address))]
    (proof,) = ours.prove(OFFER, ())
    assert isinstance(proof.message, Proof)
    assert theirs.receive(Envelope(proof.message)) == [Proven(NODE.address, OFFER, ())]
    assert ours.receive(Envelope(WELCOME)) == [Opened(WELCOME)]
    assert ours.receive(Envelope(CANCEL)) == [Deliver(Envelope(CANCEL))]


def test_a_proof_is_given_once_and_only_after_the_challenge() -> None:
    ours = session()
    assert not ours.prove(OFFER, ())
    ours.receive(Envelope(challenge(ours)))
    assert ours.prove(OFFER, ())
    assert not ours.prove(OFFER, ())


def test_a_welcome_before_the_proof_is_out_of_order() -> None:
    ours = session()
    ours.receive(Envelope(challenge(ours)))
    ends(ours, WELCOME, "message_out_of_order")


@pytest.mark.parametrize("message", [WELCOME, CANCEL])
def test_nothing_comes_before_the_challenge(message: Message) -> None:
    ends(session(), message, "message_out_of_order")


def test_a_second_challenge_is_out_of_order() -> None:
    ours = opened()
    ends(ours, challenge(session()), "message_out_of_order")
    assert ours.receive(Envelope(CANCEL)) == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (session(origin="http://elsewhere:8080"), peer()),
        (session(), peer(origin="http://elsewhere:8080")),
        (session(sender=NODE.address), peer()),
        (session(domain=DOMAIN.model_copy(update={"chain_id": 1})), peer()),
        (session(domain=DOMAIN.model_copy(update={"contract": NODE.address})), peer()),
    ],
    ids=["other origin", "relayed", "other sender", "other chain", "other contract"],
)
def test_a_forged_orchestrator_is_refused(ours: NodeSession, theirs: OrchestratorSession) -> None:
    ends(ours, challenge(ours, theirs), "forged_identity")


def test_a_challenge_signed_by_another_key_is_refused() -> None:
    ours = session()
    true = challenge(ours)
    ends(ours, true.model_copy(update={"signer": SENDER.address}), "forged_identity")


def test_another_version_is_refused() -> None:
    ours = session()
    ends(ours, challenge(ours).model_copy(update={"version": 2}), "version_mismatch")


def test_an_unknown_type_is_refused_politely() -> None:
    ours = opened()
    effects = list[object](ours.refuse(UnknownMessage("expected another type")))
    assert (len(effects), said(effects).fatal) == (1, False)
    assert ours.phase is Phase.OPEN


def test_what_cannot_be_decoded_ends_the_session() -> None:
    ours = opened()
    effects = list[object](ours.refuse(InvalidTensor("too short")))
    assert said(effects).code == "malformed_message"
    assert ours.refuse(InvalidTensor("again")) == []
    assert ours.close("again", "") == []


@pytest.mark.parametrize("fatal", [True, False])
def test_a_problem_ends_the_handshake(fatal: bool) -> None:
    ours = session()
    assert ours.receive(Envelope(Problem(code="x", detail="y", fatal=fatal))) == [Close("x", "y")]


def test_a_polite_problem_leaves_the_session_open() -> None:
    ours = opened()
    problem = Problem(code="x", detail="y")
    assert ours.receive(Envelope(problem)) == [Deliver(Envelope(problem))]
