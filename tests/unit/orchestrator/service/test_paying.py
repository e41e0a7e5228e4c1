"""Payments to nodes whose sessions come and go."""

import asyncio

import pytest

from orchestrator.core.paying import PayingPolicy
from orchestrator.core.records import PaymentRecord
from orchestrator.core.scheduling import Obstacle
from orchestrator.core.session import Identity
from orchestrator.ports.store import AccountDecision
from orchestrator.service.nodes import ConnectedNode
from orchestrator.service.paying import Payer
from tandem.protocol.messages import (
    OrchestratorMessage,
    Payment,
    PaymentReceipt,
    Problem,
    TicketTerms,
    TicketTermsReply,
)
from tandem.waiting import Bell
from tests.conformance.store.samples import earn
from tests.fixtures.protocol import DOMAIN, NODE, ORIGIN, SENDER, SIGNER, ticket_params
from tests.unit.orchestrator.service.conftest import Market

IDENTITY = Identity(SIGNER, SENDER.address, DOMAIN, ORIGIN)
TERMS = ticket_params(face_value=1000, odds=10)
LATER = TERMS.model_copy(update={"expiry": TERMS.expiry + 1})


async def payer_of(market: Market, earned: int) -> Payer:
    await earn(market.store, earned, node=NODE.address)
    policy = PayingPolicy(max_ahead=1000, max_face_value=50_000)
    return Payer(market.store, market.nodes, IDENTITY, policy, Bell(market.clock))


async def test_a_node_is_paid_under_its_terms_until_it_has_answered_for_all(market: Market) -> None:
    payer = await payer_of(market, earned=250)
    node, link = market.connect()
    await payer.pay(node)
    assert link.sent == []
    await payer.terms(node, TicketTerms(params=TERMS))
    await payer.pay(node)
    reply, payment = link.sent
    assert isinstance(reply, TicketTermsReply)
    assert reply.accepted
    assert isinstance(payment, Payment)
    assert [ticket.sender_nonce for ticket in payment.tickets] == [0, 1, 2]
    assert len(await market.store.open_payments(NODE.address)) == 1
    await payer.receipt(node, PaymentReceipt(id=payment.id, accepted=True))
    assert await market.store.open_payments(NODE.address) == []
    assert (node.unpaid, node.open_payments) == (0, 0)


async def test_nothing_is_signed_for_a_session_that_a_newer_one_has_replaced(market: Market) -> None:
    payer = await payer_of(market, earned=250)
    old, _ = market.connect()
    await payer.terms(old, TicketTerms(params=TERMS))
    new, link = market.connect()
    await payer.resume(new)
    await payer.pay(old)
    assert await market.store.open_payments(NODE.address) == []

    await payer.terms(new, TicketTerms(params=TERMS))
    await payer.pay(new)
    assert [type(message) for message in link.sent] == [TicketTermsReply, Payment]


async def test_an_unanswered_payment_is_said_again_to_the_next_session(market: Market) -> None:
    payer = await payer_of(market, earned=250)
    old, first = market.connect()
    await payer.terms(old, TicketTerms(params=TERMS))
    await payer.pay(old)
    new, second = market.connect()
    await payer.resume(new)
    assert second.sent == first.sent[1:]
    assert new.unpaid == 3 * TERMS.expected_value()


async def refuse(payer: Payer, node: ConnectedNode, payment: OrchestratorMessage, code: str) -> None:
    assert isinstance(payment, Payment)
    await payer.receipt(node, PaymentReceipt(id=payment.id, accepted=False, code=code, detail="no"))


async def test_a_node_that_refused_too_much_is_told_and_its_operator_too(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    payer = await payer_of(market, earned=1500)
    node, link = market.connect()
    await payer.terms(node, TicketTerms(params=TERMS))
    await payer.pay(node)
    for payment in link.sent[1:]:
        await refuse(payer, node, payment, "ticket_error")
    assert node.withheld is not None
    assert node.withheld.obstacle is Obstacle.OVERDRAWN
    for figure in ("1584 wei", "1015 wei", "payment.max_ahead", "1000 wei"):
        assert figure in node.withheld.detail
    assert link.sent[-1] == Problem(code="overdrawn", detail=node.withheld.detail)
    await payer.terms(node, TicketTerms(params=TERMS))
    await payer.pay(node)
    assert [type(message) for message in link.sent] == [TicketTermsReply, Payment, Payment, Problem, TicketTermsReply]
    assert [record.getMessage() for record in caplog.records].count("node_overdrawn") == 1

    again, heard = market.connect()
    await payer.resume(again)
    assert heard.sent == [Problem(code="overdrawn", detail=node.withheld.detail)]


@pytest.mark.parametrize("mended", ["terms", "allocation"])
async def test_nothing_more_is_signed_while_a_node_is_not_backed(market: Market, mended: str) -> None:
    payer = await payer_of(market, earned=250)
    node, link = market.connect()
    await payer.terms(node, TicketTerms(params=TERMS))
    await payer.pay(node)
    await refuse(payer, node, link.sent[-1], "ticket_unfunded")
    await payer.pay(node)
    assert [type(message) for message in link.sent] == [TicketTermsReply, Payment]
    assert node.withheld is not None
    assert node.withheld.obstacle is Obstacle.UNFUNDED
    assert not node.state().has_room
    market.nodes.promised(["0x" + "77" * 20])
    assert not node.is_payable
    if mended == "terms":
        await payer.terms(node, TicketTerms(params=LATER))
    else:
        market.nodes.promised([node.address])
    await payer.pay(node)
    assert isinstance(link.sent[-1], Payment)


async def test_a_late_refusal_under_older_terms_holds_nothing_up(market: Market) -> None:
    payer = await payer_of(market, earned=250)
    node, link = market.connect()
    await payer.terms(node, TicketTerms(params=TERMS))
    await payer.pay(node)
    late = link.sent[-1]
    await payer.terms(node, TicketTerms(params=LATER))
    await refuse(payer, node, late, "ticket_unfunded")
    assert node.is_payable


async def test_only_nodes_that_are_due_something_are_looked_up(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    payer = await payer_of(market, earned=250)
    node, link = market.connect()
    await payer.resume(node)
    await payer.terms(node, TicketTerms(params=TERMS))
    idle = ConnectedNode("0x" + "77" * 20, link, node.offer, market.clock.now(), has_terms=True)
    market.nodes.add(idle)
    asked: list[str] = []
    nothing_due = asyncio.Event()
    decide = market.store.decide_account

    async def watched(node: str, decision: AccountDecision) -> PaymentRecord | None:
        asked.append(node)
        payment = await decide(node, decision)
        if payment is None:
            nothing_due.set()
        return payment

    monkeypatch.setattr(market.store, "decide_account", watched)
    running = asyncio.ensure_future(payer.run())
    await nothing_due.wait()
    running.cancel()
    assert set(asked) == {NODE.address}
    assert isinstance(link.sent[-1], Payment)
    assert payer._locks.get(idle.address) is None  # addresses leave nothing behind
