import asyncio
from pathlib import Path

import pytest

import node.service.backing
from node.adapters.ticket_store import SqliteTicketStore
from node.core.standing import Topic
from tandem.protocol.messages import Payment, PaymentReceipt, TicketTerms, TicketTermsReply
from tandem.protocol.signing import SigningKey
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import (
    DOMAIN,
    LIFETIME,
    NODE,
    NOW,
    SENDER,
    SIGNER,
    payment,
    terms,
    until,
)
from tests.fixtures.till import Till, ticking


async def test_terms_are_said_when_a_session_opens(till: Till) -> None:
    params = await till.agree()
    assert (params.sender, params.recipient) == (SENDER.address, NODE.address)
    assert params.expiry == NOW + LIFETIME


async def test_a_payment_is_on_disk_before_it_is_acknowledged(till: Till) -> None:
    params = await till.agree()
    assert await till.pay(payment(params)) == PaymentReceipt(id=1, accepted=True)
    assert await till.store.seen(params.hash(), [0, 1, 2]) == {0, 1, 2}
    assert till.books.balance.received == 3000


async def test_a_payment_that_is_said_again_is_answered_again_and_counts_once(till: Till) -> None:
    params = await till.agree()
    message = payment(params)
    assert await till.pay(message) == await till.pay(message)
    assert till.books.balance.received == 3000


async def test_the_same_tickets_in_another_payment_are_a_replay(till: Till) -> None:
    params = await till.agree()
    await till.pay(payment(params))
    for number in (2, 1):
        receipt = await till.pay(payment(params, [3, 2], number=number))
        assert (receipt.accepted, receipt.code) == (False, "ticket_replayed")
    assert till.books.balance.received == 3000


async def test_a_refused_payment_stays_refused(till: Till) -> None:
    params = await till.agree()
    till.contract.signers[SIGNER.address] = 0
    message = payment(params)
    assert (await till.pay(message)).code == "ticket_signature_invalid"
    till.contract.signers[SIGNER.address] = 2**64 - 1
    assert (await till.pay(message)).code == "ticket_signature_invalid"
    assert (await till.pay(payment(params, [3], number=2))).accepted


async def hold(till: Till, message: Payment) -> None:
    till.payments.receive(SENDER.address, message)
    await until(lambda: (SENDER.address, message.id) in till.payments._held)
    assert till.queue.empty()


async def test_a_payment_that_lacks_funds_alone_is_held_and_others_pass_it(till: Till) -> None:
    params = await till.agree()
    till.contract.promised = 4000
    await hold(till, payment(params, range(10)))
    assert "expected" in till.notes._said[Topic.PAYMENTS]
    assert (await till.pay(payment(params, [10], number=2))).accepted
    till.contract.promised = 10**18
    await until(lambda: ticking(till))
    while isinstance(said := await till.said(), TicketTerms):  # new ones, for what is promised now
        await until(lambda: ticking(till))
    assert said == PaymentReceipt(id=1, accepted=True)
    await until(lambda: not till.notes._said[Topic.PAYMENTS])


@pytest.mark.parametrize(("end", "code"), [("expiry", "ticket_expired"), ("reveal", "ticket_revealed")])
async def test_a_payment_is_held_no_longer_than_its_tickets_can_win(till: Till, end: str, code: str) -> None:
    params = await till.agree()
    till.contract.promised = 0
    await hold(till, payment(params))
    if end == "expiry":
        till.clock.advance(LIFETIME - 60)
    else:
        await till.store.rotate()
        await till.store.close_epochs(1)
    till.view.forget()  # as a redemption does that is settled
    receipt = await till.said()
    assert isinstance(receipt, PaymentReceipt)
    assert (receipt.accepted, receipt.code) == (False, code)


async def test_the_reply_to_new_terms_stays_behind_a_payment_that_is_held(till: Till) -> None:
    old = await till.agree()
    till.contract.promised = 0
    await hold(till, payment(old))
    await till.terms.rotate()
    new = await till.agree()
    await hold(till, payment(new, number=2))
    assert not till.terms.agreed
    till.contract.promised = 10**18
    till.view.forget()
    for number in (1, 2):
        assert await till.said() == PaymentReceipt(id=number, accepted=True)
    await until(lambda: till.terms.agreed)


async def test_only_so_many_payments_are_held(till: Till) -> None:
    params = await till.agree()
    till.contract.promised = 0
    for number in range(1, 9):
        await hold(till, payment(params, [number], number=number))
    till.payments.receive(SENDER.address, payment(params, [9], number=9))
    await until(lambda: not till.view.bell._rung.is_set())
    assert len(till.payments._held) == 8
    till.contract.promised = 10**18
    till.view.forget()
    answered = {getattr(await till.said(), "id", 0) for _ in range(8)}
    assert answered == set(range(1, 9))


async def test_without_a_promise_there_are_no_terms_until_it_is_there(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock)
        till.contract.promised = 5 * 4000 - 1
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(till.terms.run())
            await till.open()
            await until(lambda: till.notes._said.get(Topic.BACKING))
            assert till.queue.empty()
            assert "no work comes" in till.notes._said[Topic.BACKING]
            assert "not_backed" in [record.message for record in caplog.records]
            till.contract.promised += 1
            await until(lambda: ticking(till))
            assert isinstance(await till.said(), TicketTerms)
            assert till.notes._said[Topic.BACKING] == ""
            till.contract.promised = 0
            till.view.forget()
            till.link.detach(till.queue)
            await till.open()  # a new session, whose orchestrator has no terms yet
            await until(lambda: till.notes._said[Topic.BACKING])
            assert till.queue.empty()
            loop.cancel()


async def test_nothing_is_refused_by_an_old_reading(till: Till) -> None:
    params = await till.agree()
    till.contract.promised = 4000
    first = await till.pay(payment(params, [0]))
    assert first.accepted
    till.contract.promised = 10**18
    assert (await till.pay(payment(params, range(1, 40), number=2))).accepted
    assert till.contract.reads == 3


async def test_the_chain_is_not_asked_for_every_payment(till: Till) -> None:
    params = await till.agree()
    for number in range(1, 6):
        await till.pay(payment(params, [number], number=number))
    assert till.contract.reads == 2  # for terms, and for a signer that was not known then
    till.clock.advance(16)
    await till.pay(payment(params, [9], number=9))
    assert till.contract.reads == 3


async def test_while_the_chain_is_away_a_reading_holds_as_long_as_it_must(till: Till) -> None:
    params = await till.agree()
    till.contract.good_until = params.expiry
    await till.pay(payment(params))
    till.contract.away = True
    till.clock.advance(16)
    assert (await till.pay(payment(params, [3], number=2))).accepted


async def test_without_a_reading_a_payment_waits_for_the_chain(till: Till) -> None:
    params = await till.agree()
    till.contract.away = True
    till.payments.receive(SENDER.address, payment(params))
    await until(lambda: till.clock._sleepers)
    assert till.queue.empty()
    till.contract.away = False
    till.clock.advance(5)
    assert await till.said() == PaymentReceipt(id=1, accepted=True)


async def test_a_reading_that_ends_before_the_tickets_serves_no_longer(till: Till) -> None:
    params = await till.agree()
    till.contract.good_until = params.expiry - 1
    await till.pay(payment(params))
    await till.pay(payment(params, [3], number=2))
    assert till.contract.reads == 3


@pytest.mark.parametrize("until_time", [0, NOW])
async def test_a_revoked_signer_is_refused(till: Till, until_time: int) -> None:
    params = await till.agree()
    till.contract.signers[SIGNER.address] = int(until_time)
    assert (await till.pay(payment(params))).code == "ticket_signature_invalid"


async def test_rotation_is_agreed_behind_all_payments_before_it(till: Till) -> None:
    old = await till.agree()
    assert await till.terms.rotate() == 1
    message = await till.said()
    assert isinstance(message, TicketTerms)
    till.payments.receive(SENDER.address, payment(old))
    reply = TicketTermsReply(commitment=message.params.commitment, accepted=True)
    till.payments.receive(SENDER.address, reply)
    assert await till.said() == PaymentReceipt(id=1, accepted=True)
    await until(lambda: till.terms.agreed)


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_reply_that_agrees_to_nothing_is_no_agreement(till: Till, accepted: bool) -> None:
    old = await till.agree()
    await till.terms.rotate()
    new = await till.said()
    assert isinstance(new, TicketTerms)
    commitment = old.commitment if accepted else new.params.commitment
    till.terms.reply(TicketTermsReply(commitment=commitment, accepted=accepted))
    assert not till.terms.agreed


async def test_payments_beyond_the_queue_are_dropped_to_be_said_again(till: Till) -> None:
    params = terms()
    for number in range(1, 1200):
        till.payments.receive(SENDER.address, payment(params, [0], number=number) if number == 1 else _empty(number))
    assert till.payments._queue.full()
    for _ in range(till.payments._queue.qsize()):
        till.payments._queue.get_nowait()


def _empty(number: int) -> Payment:
    return Payment.model_construct(id=number, params=terms(), tickets=())


async def test_keys_that_may_not_sign_are_asked_about_once(till: Till) -> None:
    """Else a sender could make each look at the chain longer and longer, until winners expire."""
    params = await till.agree()
    assert (await till.pay(payment(params, [0]))).accepted
    for number in range(2, 5):
        stranger = SigningKey.from_bytes(number.to_bytes(32))
        receipt = await till.pay(payment(params, [number], number=number, key=stranger))
        assert receipt.code == "ticket_signature_invalid"
    assert set((await till.view.read(SENDER.address)).signers) == {SIGNER.address}


async def test_a_sender_that_signs_itself_needs_no_second_look(till: Till) -> None:
    params = await till.agree()
    for number in range(1, 4):
        assert (await till.pay(payment(params, [number], number=number, key=SENDER))).accepted
    assert till.contract.reads == 1


async def test_a_slow_chain_holds_up_one_payment_and_for_a_moment(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.service.backing, "_PATIENCE_SECONDS", 0.0)
    params = await till.agree()
    await till.pay(payment(params, [0]))
    till.contract.hangs = True
    till.clock.advance(16)
    assert (await till.pay(payment(params, [2], number=2))).accepted
    asked = till.contract.asked
    assert (await till.pay(payment(params, [3], number=3))).accepted
    assert till.contract.asked == asked


async def test_while_the_chain_is_away_it_is_not_asked_for_every_payment(till: Till) -> None:
    params = await till.agree()
    assert (await till.pay(payment(params))).accepted
    till.contract.away = True
    till.clock.advance(16)
    asked = till.contract.asked
    for number in range(2, 6):
        assert (await till.pay(payment(params, [number * 10], number=number))).accepted
    assert till.contract.asked - asked <= 4  # the loop of terms among them
