import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import node.service.backing
from node.adapters.ticket_store import SqliteTicketStore
from node.core.redemption import WinningSet
from node.core.standing import Topic
from node.core.terms import TermsPolicy
from node.ports.contract import RedemptionOutcome
from node.service.backing import BackingView
from node.service.books import Books
from node.service.gas import GasMeter
from node.service.link import Link
from node.service.notes import Notes
from node.service.payments import Account, Payments
from node.service.terms import Surroundings, Terms
from node.service.usage import Usage
from tandem.protocol.codec import Frame, decode
from tandem.protocol.errors import ChainUnavailable
from tandem.protocol.messages import Payment, PaymentReceipt, TicketTerms, TicketTermsReply
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import Ticket, TicketParams
from tandem.waiting import Bell
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import (
    DOMAIN,
    LIFETIME,
    LIMITS,
    NODE,
    NOW,
    SENDER,
    SIGNER,
    STAKES,
    ScriptedContract,
    paid,
    payment,
    policy_for,
    terms,
    until,
)


class Till:
    """Terms and payments of a node, and what they say."""

    def __init__(self, store: SqliteTicketStore, clock: ManualClock, policy: TermsPolicy | None = None) -> None:
        self.store = store
        self.clock = clock
        policy = policy or policy_for(STAKES)
        self.contract = ScriptedContract()
        self.queue: asyncio.Queue[Frame] = asyncio.Queue()
        self.link = Link()
        self.bell = Bell(clock)
        self.books = Books(store, self.bell)
        self.view = BackingView(self.contract, clock, 15.0)
        self.notes = Notes(store, clock)
        self.around = Surroundings(self.contract, self.view, GasMeter(store, self.contract, clock), self.notes)
        self.terms = Terms(
            store, self.around, self.link, clock, recipient=NODE.address, policy=policy, agreed_bell=self.bell
        )
        account = Account(NODE.address, DOMAIN)
        self.usage = Usage(self.books, self.link, clock, policy.max_unpaid)
        self.payments = Payments(store, self.books, self.around, self.terms, self.link, clock, account)

    async def open(self) -> None:
        await self.books.open(SENDER.address)
        self.link.attach(self.queue)
        self.terms.opened(SENDER.address, LIMITS)

    async def said(self) -> object:
        async with asyncio.timeout(5):
            return decode(await self.queue.get()).message

    async def agree(self) -> TicketParams:
        """The terms that the node says, accepted."""
        message = await self.said()
        assert isinstance(message, TicketTerms)
        reply = TicketTermsReply(commitment=message.params.commitment, accepted=True)
        self.payments.receive(SENDER.address, reply)
        return message.params

    async def pay(self, message: Payment) -> PaymentReceipt:
        self.payments.receive(SENDER.address, message)
        receipt = await self.said()
        assert isinstance(receipt, PaymentReceipt)
        return receipt


@pytest.fixture
async def till(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Till]:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in (till.terms.run(), till.payments.run())]
            await till.open()
            yield till
            for task in tasks:
                task.cancel()


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


def ticking(till: Till) -> bool:
    """Lets time pass; whether something was said."""
    till.clock.advance(1)
    return not till.queue.empty()


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
    assert await till.said() == PaymentReceipt(id=1, accepted=True)
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


async def test_terms_are_renewed_at_half_their_life(till: Till) -> None:
    first = await till.agree()
    till.clock.advance(LIFETIME / 2)

    await until(lambda: ticking(till))
    second = await till.agree()
    assert second.expiry > first.expiry
    assert (await till.pay(payment(first, number=1))).accepted
    assert (await till.pay(payment(second, number=2))).accepted


async def test_after_a_drop_the_same_terms_are_said_again(till: Till) -> None:
    first = await till.agree()
    till.link.detach(till.queue)
    await till.open()
    assert await till.agree() == first


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


async def test_terms_wait_for_the_chain(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock)
        till.contract.away = True
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(till.terms.run())
            await till.open()
            await until(lambda: clock._sleepers)
            assert till.queue.empty()
            till.contract.away = False
            clock.advance(15)
            assert isinstance(await till.said(), TicketTerms)
            loop.cancel()


async def test_terms_live_at_most_half_the_unlock_period(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock, policy_for(STAKES, lifetime=10**9))
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(till.terms.run())
            await till.open()
            message = await till.said()
            assert isinstance(message, TicketTerms)
            assert message.params.expiry == NOW + 500_000
            loop.cancel()


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


GWEI, ETHER = 10**9, 10**18
FOLLOWING = TermsPolicy(
    odds=100, lifetime=LIFETIME, gas_percent=10, min_face_value=10**14, max_face_value=ETHER, max_unpaid=ETHER
)


@pytest.fixture
async def following(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Till]:
    """Terms whose face value follows gas, at 10 gwei to begin with."""
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock, FOLLOWING)
        till.contract.gas, till.contract.promised = 10 * GWEI, 10 * ETHER
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in (till.terms.run(), till.payments.run())]
            await till.open()
            yield till
            for task in tasks:
                task.cancel()


async def after(till: Till, seconds: int) -> TicketParams:
    """The terms that are issued within this time."""
    for _ in range(seconds // 15):
        till.clock.advance(15)
        await until(lambda: len(till.clock._sleepers) == 2 or not till.queue.empty())
        if not till.queue.empty():
            return await till.agree()
    raise AssertionError("none were issued")


async def test_terms_follow_gas_but_not_a_spike(following: Till) -> None:
    assert (await following.agree()).face_value == 10 * 100_000 * 10 * GWEI
    following.contract.gas = 1000 * GWEI
    with pytest.raises(AssertionError):
        await after(following, 60)
    following.contract.gas = 20 * GWEI
    risen = await after(following, 3600)
    assert 15 * 10**15 < risen.face_value < 16 * 10**15


async def test_terms_follow_what_the_contract_promises(following: Till) -> None:
    await following.agree()
    following.contract.promised = 8 * 10**15
    assert (await after(following, 30)).face_value == 10**15
    assert following.notes._said[Topic.BACKING] == ""


async def test_a_node_that_is_promised_too_little_says_so(following: Till, caplog: pytest.LogCaptureFixture) -> None:
    await following.agree()
    following.contract.promised = 10**13
    with pytest.raises(AssertionError):
        await after(following, 30)
    assert "found 0.00001 ether" in following.notes._said[Topic.BACKING]
    assert [record.message for record in caplog.records if record.message == "not_backed"] == ["not_backed"]


async def test_winners_that_never_pay_for_their_gas_are_named(
    following: Till, caplog: pytest.LogCaptureFixture
) -> None:
    await following.agree()
    assert following.notes._said[Topic.WORTH] == ""
    limits = LIMITS.model_copy(update={"max_face_value": 8000 * 10 * GWEI})
    following.terms.opened(SENDER.address, limits)
    await until(lambda: following.notes._said[Topic.WORTH])
    assert "got 0.00008 ether" in following.notes._said[Topic.WORTH]
    assert "winners_worthless" in [record.message for record in caplog.records]


@pytest.mark.parametrize(("used", "counts"), [(200_000, 20_000), (2**63 - 1, 500_000)])
async def test_terms_by_the_measured_gas_of_redemptions(following: Till, used: int, counts: int) -> None:
    await following.agree()
    result = paid([WinningSet(terms(), 1, tuple(_tickets(10)))])
    await following.store.settle(RedemptionOutcome(1, result, used), NOW)
    assert (await after(following, 30)).face_value == 10 * counts * 10 * GWEI


def _tickets(count: int) -> Iterator[Ticket]:
    return (Ticket(params=terms(), sender_nonce=nonce, signature=bytes(64)) for nonce in range(count))


async def test_the_last_gas_price_serves_while_the_chain_is_away(following: Till) -> None:
    first = await following.agree()
    following.contract.away = True
    following.clock.advance(60)
    gas = await GasMeter(following.store, following.contract, following.clock).of_redemption()
    assert gas.cost * 10 == first.face_value


async def test_without_any_price_the_chain_must_answer(tmp_path: Path, clock: ManualClock) -> None:
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        with pytest.raises(ChainUnavailable):
            await GasMeter(store, ScriptedContract(away=True), clock).of_redemption()
