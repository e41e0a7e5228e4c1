import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tandem.chain.broker import RedemptionBatch, SenderFunds, TicketBroker
from tandem.chain.events import (
    AllocationLoweringStarted,
    DepositFunded,
    Refusal,
    ReserveFunded,
    SignerRevoked,
    TicketsRedeemed,
    UnlockStarted,
)
from tandem.chain.redemption import RedemptionResult, redemption_result
from tandem.chain.rpc import Chain
from tandem.protocol.errors import ConfigurationError, TransactionReverted
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import (
    Domain,
    Ticket,
    TicketParams,
    commitment_to,
    sign_ticket,
    ticket_digest,
    win_prob_from_odds,
)
from tests.fixtures.anvil import UNLOCK_PERIOD, Anvil, transaction_sender
from tests.fixtures.tickets import two_encodings

GOLDEN = Path(__file__).parents[3] / "contracts" / "test" / "golden.json"
ETHER = 10**18
FACE_VALUE = ETHER // 100
RAND = b"\x07" * 32


@dataclass(frozen=True, slots=True)
class Market:
    """A sender with a deposit of 1 ether and a reserve of 2, and a recipient that redeems for itself."""

    anvil: Anvil
    chain: Chain
    broker: TicketBroker
    sender: SigningKey
    recipient: SigningKey

    def params(self, rand: bytes = RAND, **changes: object) -> TicketParams:
        params = TicketParams(
            sender=self.sender.address,
            recipient=self.recipient.address,
            face_value=FACE_VALUE,
            win_prob=win_prob_from_odds(1),
            expiry=4_000_000_000,
            commitment=commitment_to(rand),
        )
        return params.model_copy(update=changes)

    def tickets(self, params: TicketParams, count: int, key: SigningKey | None = None) -> tuple[Ticket, ...]:
        signer = key or self.sender
        return tuple(sign_ticket(signer, self.broker.domain, params, nonce) for nonce in range(count))

    async def redeem(self, *batches: RedemptionBatch) -> RedemptionResult:
        mined = await transaction_sender(self.chain, self.recipient).send(self.broker.redeem(batches), "redeem")
        return redemption_result(self.broker, mined)

    async def refusals(self, *batches: RedemptionBatch) -> list[Refusal]:
        return [refused.reason for refused in (await self.redeem(*batches)).not_paid]


@pytest.fixture
async def market(anvil: Anvil, chain: Chain, broker: TicketBroker) -> Market:
    sender, recipient = anvil.keys[1], anvil.keys[3]
    transactions = transaction_sender(chain, sender)
    await transactions.send(broker.fund_deposit(sender.address, ETHER), "fund deposit")
    await transactions.send(broker.fund_reserve(sender.address, 2 * ETHER), "fund reserve")
    return Market(anvil, chain, broker, sender, recipient)


async def test_funding_and_allocating(market: Market) -> None:
    transactions = transaction_sender(market.chain, market.sender)
    await transactions.send(market.broker.allocate([(market.recipient.address, ETHER)]), "allocate")
    funds = await market.broker.funds(market.sender.address, market.recipient.address)
    assert funds == SenderFunds(ETHER, 2 * ETHER, ETHER, ETHER, 0, None, None)
    with pytest.raises(TransactionReverted, match="1 ether of it is free"):
        await transactions.send(market.broker.allocate([(market.anvil.keys[4].address, ETHER + 1)]), "allocate")


async def test_winners_in_a_batch_are_paid_in_real_wei(market: Market) -> None:
    params = market.params()
    before = await market.chain.balance(market.recipient.address)
    result = await market.redeem(RedemptionBatch(params, RAND, market.tickets(params, 50)))
    assert result.amount_wei == 50 * FACE_VALUE
    assert result.not_paid == ()
    assert [paid.sender_nonces for paid in result.paid] == [tuple(range(50))]
    after = await market.chain.balance(market.recipient.address)
    assert after - before == 50 * FACE_VALUE - result.gas_cost_wei
    assert await market.broker.is_redeemed(params, 49)
    assert not await market.broker.is_redeemed(params, 50)
    funds = await market.broker.funds(market.sender.address, market.recipient.address)
    assert funds.deposit == ETHER - 50 * FACE_VALUE


async def test_a_bad_ticket_does_not_sink_the_others(market: Market) -> None:
    params, other = market.params(), market.params(b"\x08" * 32)
    good, forged, stranger = (
        sign_ticket(market.sender, market.broker.domain, params, 0),
        Ticket(params=params, sender_nonce=1, signature=b"\xff" * 64),
        sign_ticket(market.recipient, market.broker.domain, params, 2),
    )
    result = await market.redeem(
        RedemptionBatch(other, RAND, market.tickets(other, 1)),
        RedemptionBatch(params, RAND, (forged, stranger, good, good)),
    )
    assert [(refused.sender_nonce, refused.reason) for refused in result.not_paid] == [
        (None, Refusal.WRONG_REVEAL),
        (1, Refusal.INVALID_SIGNATURE),
        (2, Refusal.UNAUTHORISED_SIGNER),
        (0, Refusal.ALREADY_REDEEMED),
    ]
    assert [paid.sender_nonces for paid in result.paid] == [(0,)]
    assert result.amount_wei == FACE_VALUE


async def test_a_replay_is_refused(market: Market) -> None:
    params = market.params()
    batch = RedemptionBatch(params, RAND, market.tickets(params, 2))
    assert (await market.redeem(batch)).amount_wei == 2 * FACE_VALUE
    again = await market.redeem(batch)
    assert again.amount_wei == 0
    assert {refused.reason for refused in again.not_paid} == {Refusal.ALREADY_REDEEMED}


async def test_the_second_encoding_of_a_signature_is_refused(market: Market) -> None:
    params = market.params()
    key, low, high = two_encodings(ticket_digest(market.broker.domain, params, 0))
    await transaction_sender(market.chain, market.sender).send(market.broker.authorise_signer(key.address), "authorise")
    ticket = Ticket(params=params, sender_nonce=0, signature=high)
    assert await market.refusals(RedemptionBatch(params, RAND, (ticket,))) == [Refusal.INVALID_SIGNATURE]
    canonical = replace(ticket, signature=low)
    assert (await market.redeem(RedemptionBatch(params, RAND, (canonical,)))).amount_wei == FACE_VALUE


async def test_tickets_of_another_chain_or_contract_are_refused(market: Market) -> None:
    params = market.params()
    domain = market.broker.domain
    for other in (Domain(chain_id=1, contract=domain.contract), Domain(chain_id=31337, contract="0x" + "12" * 20)):
        ticket = sign_ticket(market.sender, other, params, 0)
        assert await market.refusals(RedemptionBatch(params, RAND, (ticket,))) == [Refusal.UNAUTHORISED_SIGNER]


async def test_expired_and_losing_tickets_are_refused(market: Market) -> None:
    expired, losing = market.params(expiry=1), market.params(win_prob=0)
    assert await market.refusals(
        RedemptionBatch(expired, RAND, market.tickets(expired, 1)),
        RedemptionBatch(losing, RAND, market.tickets(losing, 1)),
    ) == [Refusal.EXPIRED, Refusal.NOT_WINNING]


async def test_an_unfunded_winner_waits_for_funds(market: Market) -> None:
    params = market.params(face_value=ETHER // 2)
    batch = RedemptionBatch(params, RAND, market.tickets(params, 3))
    first = await market.redeem(batch)
    assert first.amount_wei == ETHER
    assert [(refused.sender_nonce, refused.reason) for refused in first.not_paid] == [(2, Refusal.UNFUNDED)]
    await transaction_sender(market.chain, market.anvil.keys[5]).send(
        market.broker.fund_deposit(market.sender.address, ETHER // 2), "fund by another"
    )
    assert (await market.redeem(batch)).amount_wei == ETHER // 2


async def test_the_allocation_is_drawn_after_the_deposit_and_by_its_recipient_alone(market: Market) -> None:
    transactions = transaction_sender(market.chain, market.sender)
    await transactions.send(market.broker.allocate([(market.recipient.address, ETHER)]), "allocate")
    rival = market.anvil.keys[4]
    greedy = market.params(face_value=ETHER, recipient=rival.address)
    result = await market.redeem(RedemptionBatch(greedy, RAND, market.tickets(greedy, 2)))
    assert result.amount_wei == ETHER
    mine = market.params(face_value=ETHER)
    await market.redeem(RedemptionBatch(mine, RAND, market.tickets(mine, 1)))
    funds = await market.broker.funds(market.sender.address, market.recipient.address)
    assert funds == SenderFunds(0, ETHER, 0, 0, 0, None, None)
    events = await market.broker.events(0, await market.chain.head())
    redeemed = [event for event in events if isinstance(event, TicketsRedeemed)]
    assert [(event.recipient, event.from_reserve) for event in redeemed] == [
        (rival.address, 0),
        (market.recipient.address, ETHER),
    ]


async def test_events_of_one_sender_and_the_state_of_a_block(market: Market) -> None:
    other = market.anvil.keys[5].address
    before = await market.chain.head()
    await transaction_sender(market.chain, market.sender).send(market.broker.fund_deposit(other, 7), "fund another")
    head = await market.chain.head()
    events = await market.broker.events(0, head, sender=market.sender.address)
    assert [type(event) for event in events] == [DepositFunded, ReserveFunded]
    (event,) = await market.broker.events(0, head, sender=other)
    assert event == DepositFunded(event.at, other, market.sender.address, 7)
    assert (await market.broker.funds(other, other, block=before)).deposit == 0
    assert (await market.broker.funds(other, other, block=head)).deposit == 7
    assert not await market.broker.exists_at(0)
    assert await market.broker.exists_at(before)


async def test_signers_are_authorised_and_revoked_after_the_unlock_period(market: Market) -> None:
    signer = market.anvil.keys[6]
    transactions = transaction_sender(market.chain, market.sender)
    assert not await market.broker.is_signer(market.sender.address, signer.address)
    await transactions.send(market.broker.authorise_signer(signer.address), "authorise")
    await transactions.send(market.broker.revoke_signer(signer.address), "revoke")
    params = market.params()
    assert (await market.redeem(RedemptionBatch(params, RAND, market.tickets(params, 1, signer)))).amount_wei
    revoked = [
        event for event in await market.broker.events(0, await market.chain.head()) if isinstance(event, SignerRevoked)
    ]
    until = await market.broker.signer_valid_until(market.sender.address, signer.address)
    assert [(event.signer, event.valid_until) for event in revoked] == [(signer.address, until)]
    market.anvil.warp(UNLOCK_PERIOD)
    assert not await market.broker.is_signer(market.sender.address, signer.address)
    late = RedemptionBatch(params, RAND, market.tickets(params, 2, signer)[1:])
    assert await market.refusals(late) == [Refusal.UNAUTHORISED_SIGNER]


async def test_withdrawing_and_lowering_wait_for_the_unlock_period(market: Market) -> None:
    transactions = transaction_sender(market.chain, market.sender)
    recipient, away = market.recipient.address, "0x" + "99" * 20
    await transactions.send(market.broker.allocate([(recipient, 2 * ETHER)]), "allocate")
    await transactions.send(market.broker.unlock(), "unlock")
    await transactions.send(market.broker.allocate([(recipient, ETHER)]), "lower")
    with pytest.raises(TransactionReverted, match="StillLocked"):
        await transactions.send(market.broker.withdraw_deposit(ETHER, away), "withdraw")
    funds = await market.broker.funds(market.sender.address, recipient)
    assert (funds.allocation, funds.promised()) == (2 * ETHER, ETHER)
    events = await market.broker.events(0, await market.chain.head())
    assert [event.unlock_at for event in events if isinstance(event, UnlockStarted)] == [funds.unlock_at]
    assert [event.lowers_at for event in events if isinstance(event, AllocationLoweringStarted)] == [funds.lowers_at]
    market.anvil.warp(UNLOCK_PERIOD)
    await transactions.send(market.broker.allocate([(recipient, ETHER)]), "free")
    await transactions.send(market.broker.withdraw_deposit(ETHER, away), "withdraw deposit")
    await transactions.send(market.broker.withdraw_reserve(ETHER, away), "withdraw reserve")
    with pytest.raises(TransactionReverted, match="ReserveTooSmall"):
        await transactions.send(market.broker.withdraw_reserve(1, away), "withdraw what is promised")
    assert await market.chain.balance(away) == 2 * ETHER
    await transactions.send(market.broker.cancel_unlock(), "cancel")
    assert (await market.broker.funds(market.sender.address, recipient)).unlock_at is None


async def test_golden_vectors_are_the_contracts_too(market: Market) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert market.broker.address == golden["tickets"][0]["domain"]["contract"]
    signer = transaction_sender(market.chain, market.sender)
    await signer.send(market.broker.authorise_signer(golden["tickets"][2]["signer"]), "authorise")
    for vector in golden["tickets"]:
        ticket = TypeAdapter(Ticket).validate_json(json.dumps(vector["ticket"]))
        rand = bytes.fromhex(vector["recipient_rand"][2:])
        digest = await market.broker.ticket_digest(ticket.params, ticket.sender_nonce)
        assert digest.hex() == vector["digest"][2:]
        result = await market.redeem(RedemptionBatch(ticket.params, rand, (ticket,)))
        won = result.amount_wei > 0 or [refused.reason for refused in result.not_paid] == [Refusal.UNFUNDED]
        assert won is vector["wins"]


async def test_check_finds_the_contract_and_nothing_else(market: Market) -> None:
    await market.broker.check()
    with pytest.raises(ConfigurationError, match="no code"):
        await TicketBroker(market.chain, market.sender.address).check()
    assert await market.broker.unlock_period() == UNLOCK_PERIOD
    assert await market.broker.credit(market.recipient.address) == 0
