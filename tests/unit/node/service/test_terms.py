"""Terms of tickets: when they are issued, how long they live, and what winners pay under them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.core.redemption import WinningSet
from node.core.standing import Topic
from node.core.terms import TermsPolicy
from node.ports.contract import RedemptionOutcome
from node.service.gas import GasMeter
from tandem.protocol.errors import ChainUnavailable
from tandem.protocol.messages import TicketTerms
from tandem.protocol.tickets import Ticket, TicketParams
from tests.fixtures.clock import ManualClock
from tests.fixtures.node import (
    DOMAIN,
    LIFETIME,
    LIMITS,
    NODE,
    NOW,
    SENDER,
    STAKES,
    ScriptedContract,
    paid,
    payment,
    policy_for,
    terms,
    until,
)
from tests.fixtures.till import Till, opened, ticking

GWEI, ETHER = 10**9, 10**18
FOLLOWING = TermsPolicy(
    odds=100, lifetime=LIFETIME, gas_percent=10, min_face_value=10**14, max_face_value=ETHER, max_unpaid=ETHER
)


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


@pytest.fixture
async def following(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Till]:
    """Terms whose face value follows gas, at 10 gwei to begin with."""
    async with SqliteTicketStore(tmp_path / "tickets.db", NODE.address, DOMAIN) as store:
        till = Till(store, clock, FOLLOWING)
        till.contract.gas, till.contract.promised = 10 * GWEI, 10 * ETHER
        async with opened(till):
            yield till


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
