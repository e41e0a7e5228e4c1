"""Both sides of a node session, talking to each other through real frames."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from node.core import session as node_side
from orchestrator.core import session as orchestrator_side
from tandem.protocol.codec import Envelope, decode, encode
from tandem.protocol.errors import ForgedIdentity, MalformedMessage, MessageOutOfOrder, UnknownMessage
from tandem.protocol.messages import (
    Assign,
    Finished,
    Heartbeat,
    HeartbeatReply,
    HeldAttempt,
    Message,
    Problem,
    Verdict,
    Welcome,
)
from tandem.protocol.tickets import Domain
from tests.fixtures.protocol import (
    DOMAIN,
    LIMITS,
    NODE,
    ORIGIN,
    REF,
    SENDER,
    SIGNER,
    STRANGER,
    inference_work,
    offer,
    tensor,
)

IDENTITY = orchestrator_side.Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
EXPECTATION = node_side.Expectation(ORIGIN, DOMAIN, SENDER.address)
OFFER = offer()
HELD = (HeldAttempt(ref=REF, finished=False),)
WELCOME = Welcome(heartbeat=10, lease=30, limits=LIMITS, keep=(REF,))

Effects = Sequence[node_side.Effect] | Sequence[orchestrator_side.Effect]


@dataclass
class Pair:
    """The two machines, and what each hands to its services."""

    expectation: node_side.Expectation = EXPECTATION
    identity: orchestrator_side.Identity = IDENTITY
    node: node_side.NodeSession = field(init=False)
    orchestrator: orchestrator_side.OrchestratorSession = field(init=False)
    at_node: list[object] = field(default_factory=list)
    at_orchestrator: list[object] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node = node_side.NodeSession(self.expectation, NODE, b"n" * 32)
        self.orchestrator = orchestrator_side.OrchestratorSession(self.identity, b"o" * 32)

    def open(self) -> "Pair":
        self.to_orchestrator(self.node.hello().message)
        return self

    @property
    def phases(self) -> tuple[str, str]:
        return self.node.phase.value, self.orchestrator.phase.value

    def to_node(self, message: Message, envelope: Envelope | None = None) -> None:
        self.said.append(message.type)
        for effect in self.node.receive(decode(encode(envelope or Envelope(message)))):
            match effect:
                case node_side.Send(answer):
                    self.to_orchestrator(answer)
                case node_side.Challenged():
                    self.at_node.append(effect)
                    for send in self.node.prove(OFFER, HELD):
                        assert isinstance(send, node_side.Send)
                        self.to_orchestrator(send.message)
                case _:
                    self.at_node.append(effect)

    def to_orchestrator(self, message: Message, envelope: Envelope | None = None) -> None:
        self.said.append(message.type)
        for effect in self.orchestrator.receive(decode(encode(envelope or Envelope(message)))):
            match effect:
                case orchestrator_side.Send(answer):
                    self.to_node(answer)
                case orchestrator_side.Proven():
                    self.at_orchestrator.append(effect)
                    for send in self.orchestrator.welcome(WELCOME):
                        assert isinstance(send, orchestrator_side.Send)
                        self.to_node(send.message)
                case _:
                    self.at_orchestrator.append(effect)


def test_they_open_a_session() -> None:
    pair = Pair().open()
    assert pair.phases == ("open", "open")
    assert pair.said == ["hello", "challenge", "proof", "welcome"]
    known = node_side.Orchestrator(SENDER.address, SIGNER.address)
    assert pair.at_node == [node_side.Challenged(known), node_side.Opened(WELCOME)]
    assert pair.at_orchestrator == [orchestrator_side.Proven(NODE.address, OFFER, HELD)]


def test_messages_pass_once_it_is_open() -> None:
    pair = Pair().open()
    given = tensor("x", 1.0, float("nan"))
    work = Envelope(
        Assign(ref=REF, work=inference_work(given), price=1, start_to_finish=60, source_url="http://o/m"), (given,)
    )
    pair.to_node(work.message, work)
    assert pair.at_node[-1] == node_side.Deliver(work)
    pair.to_orchestrator(Heartbeat(attempts=(REF,)))
    assert pair.at_orchestrator[-1] == orchestrator_side.Deliver(Envelope(Heartbeat(attempts=(REF,))))


@pytest.mark.parametrize(
    "expectation",
    [
        replace(EXPECTATION, origin="http://somewhere.else:8080"),
        replace(EXPECTATION, domain=Domain(chain_id=1, contract=DOMAIN.contract)),
        replace(EXPECTATION, domain=Domain(chain_id=DOMAIN.chain_id, contract=SENDER.address)),
        replace(EXPECTATION, sender=STRANGER.address),
    ],
    ids=["origin", "chain", "contract", "sender"],
)
def test_a_node_that_expects_another_orchestrator_ends_it(expectation: node_side.Expectation) -> None:
    pair = Pair(expectation).open()
    assert pair.node.phase is node_side.Phase.CLOSED
    assert pair.orchestrator.phase is orchestrator_side.Phase.CLOSED
    (end,) = pair.at_node
    assert isinstance(end, node_side.Close)
    assert end.code == ForgedIdentity.code


def test_an_orchestrator_cannot_sign_for_another() -> None:
    """A relay knows every address, and has not the key."""
    pair = Pair()
    (challenge,) = pair.orchestrator.receive(Envelope(pair.node.hello().message))
    assert isinstance(challenge, orchestrator_side.Send)
    forged = challenge.message.model_copy(update={"signer": STRANGER.address})
    _, end = pair.node.receive(Envelope(forged))
    assert isinstance(end, node_side.Close)
    assert end.code == ForgedIdentity.code


def test_a_recorded_session_cannot_be_played_again() -> None:
    record = Pair().open()
    hello = record.node.hello().message
    proof = node_side.NodeSession(EXPECTATION, NODE, b"n" * 32)
    (challenge,) = orchestrator_side.OrchestratorSession(IDENTITY, b"o" * 32).receive(Envelope(hello))
    assert isinstance(challenge, orchestrator_side.Send)
    proof.receive(Envelope(challenge.message))
    (recorded,) = proof.prove(OFFER, ())
    again = orchestrator_side.OrchestratorSession(IDENTITY, b"fresh random bytes of a new day!")
    again.receive(Envelope(hello))
    assert isinstance(recorded, node_side.Send)
    _, end = again.receive(Envelope(recorded.message))
    assert isinstance(end, orchestrator_side.Close)
    assert end.code == ForgedIdentity.code


def test_each_side_refuses_the_others_part() -> None:
    pair = Pair().open()
    pair.to_orchestrator(HeartbeatReply())
    assert pair.phases == ("closed", "closed")
    pair = Pair().open()
    pair.to_node(Heartbeat())
    assert pair.phases == ("closed", "closed")
    assert isinstance(pair.at_node[-1], node_side.Close)
    assert pair.at_node[-1].code == MessageOutOfOrder.code


def test_an_unknown_type_is_refused_politely_on_an_open_session_only() -> None:
    pair = Pair().open()
    (refusal,) = pair.orchestrator.refuse(UnknownMessage("new"))
    assert refusal == orchestrator_side.Send(Problem(code=UnknownMessage.code, detail="new"))
    assert isinstance(refusal, orchestrator_side.Send)
    pair.to_node(refusal.message)
    assert pair.phases == ("open", "open")
    stranger = Pair()
    assert len(stranger.orchestrator.refuse(UnknownMessage("new"))) == 2
    assert stranger.orchestrator.phase is orchestrator_side.Phase.CLOSED


def test_after_the_end_nothing_is_heard_or_said() -> None:
    pair = Pair().open()
    assert len(pair.orchestrator.refuse(MalformedMessage("cut"))) == 2
    assert pair.orchestrator.refuse(MalformedMessage("cut")) == []
    assert pair.orchestrator.receive(Envelope(Heartbeat())) == []
    assert pair.orchestrator.close("bye", "") == []
    pair.node.close("bye", "")
    assert pair.node.receive(Envelope(Verdict(ref=REF, accepted=True))) == []


def test_a_result_may_come_before_its_verdict_is_known() -> None:
    """The pair does not care how often something is said: that is the services' affair."""
    pair = Pair().open()
    given = tensor("y", 0.5)
    work = inference_work(given)
    done = {"kind": "inference", "outputs": work.inputs, "provider": "CPUExecutionProvider"}
    result = Envelope(Finished.model_validate({"ref": REF, "output": done}), (given,))
    pair.to_orchestrator(result.message, result)
    pair.to_orchestrator(result.message, result)
    assert pair.at_orchestrator[-2:] == [orchestrator_side.Deliver(result)] * 2
