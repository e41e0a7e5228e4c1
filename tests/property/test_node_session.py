"""The node's session under any sequence of events."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from node.core.session import Close, Deliver, Effect, Expectation, NodeSession, Opened, Phase, Send
from orchestrator.core.session import Identity, OrchestratorSession
from orchestrator.core.session import Send as TheirSend
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import MalformedMessage, ProtocolError, UnknownMessage
from tandem.protocol.messages import (
    Cancel,
    Challenge,
    HeartbeatReply,
    Hello,
    Message,
    Problem,
    Progress,
    TicketTerms,
    Verdict,
    Welcome,
)
from tandem.protocol.signing import SigningKey
from tests.fixtures.node import DOMAIN, LIMITS, NODE, OFFER, SENDER, SIGNER, ref, terms

ORIGIN = "http://orchestrator:8080"
NONCE = b"\x07" * 32
MESSAGES: list[Message] = [
    Welcome(heartbeat=1, lease=3, limits=LIMITS),
    Cancel(ref=ref(), reason="enough"),
    HeartbeatReply(lost=(ref(),)),
    Verdict(ref=ref(), accepted=True),
    Problem(code="x", detail="y"),
    Problem(code="x", detail="y", fatal=True),
    Progress(ref=ref(), permille=1),
    TicketTerms(params=terms()),
    Hello(versions=(1,), address=NODE.address, nonce=NONCE),
]
Event = Callable[[NodeSession], list[Effect]]


def _challenge(key: SigningKey, origin: str, nonce: bytes) -> Challenge:
    peer = OrchestratorSession(Identity(key, SENDER.address, DOMAIN, origin), b"\x08" * 32)
    (answer,) = peer.receive(Envelope(Hello(versions=(1,), address=NODE.address, nonce=nonce)))
    assert isinstance(answer, TheirSend)
    assert isinstance(answer.message, Challenge)
    return answer.message


TRUE = _challenge(SIGNER, ORIGIN, NONCE)
FORGED: list[Message] = [
    _challenge(SIGNER, "http://elsewhere", NONCE),
    _challenge(SIGNER, ORIGIN, b"\x09" * 32),
    TRUE.model_copy(update={"signer": SENDER.address}),
    TRUE.model_copy(update={"sender": NODE.address}),
    TRUE.model_copy(update={"nonce": b"\x0a" * 32}),
    TRUE.model_copy(update={"chain_id": 1}),
    TRUE.model_copy(update={"version": 2}),
    TRUE.model_copy(update={"signature": bytes(64)}),
]


def _receiving(message: Message) -> Event:
    return lambda session: session.receive(Envelope(message))


def _prove(session: NodeSession) -> list[Effect]:
    return list(session.prove(OFFER, ()))


def _refusing(error: ProtocolError) -> Event:
    return lambda session: session.refuse(error)


TRUE_CHALLENGE, WELCOME = _receiving(TRUE), _receiving(MESSAGES[0])
events = st.one_of(
    st.sampled_from([TRUE_CHALLENGE, WELCOME, _prove]),
    st.sampled_from([_receiving(message) for message in (*MESSAGES, *FORGED)]),
    st.sampled_from([_refusing(UnknownMessage("what?")), _refusing(MalformedMessage("what?"))]),
)


@given(st.lists(events, max_size=12))
def test_nothing_opens_a_session_but_both_proofs_in_order(sequence: list[Event]) -> None:
    session = NodeSession(Expectation(ORIGIN, DOMAIN), NODE, NONCE)
    so_far: list[Event] = []
    for event in sequence:
        before = session.phase
        effects = event(session)
        so_far.append(event)
        _check(session, before, effects)
        if session.phase is Phase.OPEN and before is not Phase.OPEN:
            steps = [each for each in so_far if each in (TRUE_CHALLENGE, _prove, WELCOME)]
            assert event is WELCOME
            assert _prove in steps[steps.index(TRUE_CHALLENGE) :]


def _check(session: NodeSession, before: Phase, effects: list[Effect]) -> None:
    delivered = [effect for effect in effects if isinstance(effect, Deliver)]
    assert not delivered or before is Phase.OPEN
    assert not [effect for effect in effects if isinstance(effect, Opened)] or session.phase is Phase.OPEN
    assert [effect for effect in effects if isinstance(effect, Close)] == (
        [effects[-1]] if session.phase is Phase.CLOSED and before is not Phase.CLOSED else []
    )
    if before is Phase.CLOSED:
        assert effects == []
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, Problem):
            assert effect.message.fatal is (session.phase is Phase.CLOSED)


@given(st.lists(st.sampled_from([_receiving(message) for message in FORGED]), min_size=1, max_size=3))
def test_a_forged_challenge_never_gets_a_proof(sequence: list[Event]) -> None:
    session = NodeSession(Expectation(ORIGIN, DOMAIN, SENDER.address), NODE, NONCE)
    for event in sequence:
        event(session)
        assert _prove(session) == []
