"""What somebody would try, against the real parts of both sides and the real contract."""

import pytest
from pydantic import ValidationError

from node.core.terms import Epochs, epoch_of, recipient_rand
from tandem.chain.events import Refusal
from tandem.protocol.errors import TicketUnfunded
from tandem.protocol.messages import Payment, SignedTicket
from tandem.protocol.tickets import Domain, TicketParams, commitment_to, sign_ticket, ticket_digest
from tests.fixtures.anvil import UNLOCK_PERIOD
from tests.fixtures.payments import FACE
from tests.fixtures.tickets import two_encodings
from tests.integration.payments.conftest import ALLOCATION, World

GWEI = 10**9
PATIENT = 1
"""Percent of gas: a node waits with a winner or two until they are urgent."""


def signed(params: TicketParams, *tickets: tuple[int, bytes], number: int = 1) -> Payment:
    said = tuple(SignedTicket(sender_nonce=nonce, signature=signature) for nonce, signature in tickets)
    return Payment(id=number, params=params, tickets=said)


async def test_a_replayed_ticket_is_taken_once_and_paid_once(world: World) -> None:
    params = await world.earn(2)
    assert (await world.offer(params, 0)).code == "ticket_replayed"
    assert (await world.offer(params, 7, 7)).code == "ticket_replayed"
    await world.settle()
    assert await world.redeemed() == 2 * FACE

    store = world.earning.store
    rand = recipient_rand(store.secret, params, epoch_of(store.secret, params, Epochs((await store.epochs()).current)))
    ticket = sign_ticket(world.paying.identity.key, world.broker.domain, params, 0)
    result = await world.redeem_as(world.anvil.keys[3], rand, ticket)
    assert ([refused.reason for refused in result.not_paid], result.paid) == ([Refusal.ALREADY_REDEEMED], ())


async def test_a_ticket_of_another_chain_or_contract_is_refused(world: World) -> None:
    params = await world.earn(1)
    here = world.broker.domain
    for domain in (Domain(chain_id=1, contract=here.contract), Domain(chain_id=here.chain_id, contract=world.node)):
        assert (await world.offer(params, 7, domain=domain)).code == "ticket_signature_invalid"
    assert (await world.offer(params, 7)).accepted


async def test_only_one_encoding_of_a_signature_is_a_ticket(world: World) -> None:
    params = await world.earn(1)
    key, low, high = two_encodings(ticket_digest(world.broker.domain, params, 7))
    await world.act(world.broker.authorise_signer(key.address))
    flipped = low[:32] + bytes([low[32] ^ 0x80]) + low[33:]
    for number, signature in enumerate((high, flipped), 50):
        receipt = await world.answer(signed(params, (7, signature), number=number))
        assert receipt.code == "ticket_signature_invalid"
    with pytest.raises(ValidationError):
        signed(params, (7, low + b"\0"))
    assert (await world.answer(signed(params, (7, low), number=60))).accepted
    await world.settle()
    assert await world.broker.is_redeemed(params, 7)


async def test_no_ticket_is_taken_under_a_commitment_that_a_transaction_reveals(world: World) -> None:
    params = await world.earn(1)
    with world.anvil.mining_on_demand():
        await world.look()
        await world.look()
        assert await world.earning.store.in_flight()  # public from now on, mined or not
        assert (await world.offer(params, 7)).code == "ticket_revealed"
        world.anvil.mine()
    await world.settle()
    assert (await world.offer(params, 8)).code == "ticket_revealed"
    assert await world.redeemed() == FACE


async def test_a_sender_that_issues_more_than_it_has_cannot_touch_what_is_promised(world: World) -> None:
    params = await world.earn(1)
    assert (await world.offer(params, *range(100, 115))).accepted
    with pytest.raises(TicketUnfunded):  # it is held
        await world.offer(params, 200)

    # Its accomplice empties the deposit first.
    rand, accomplice = bytes(32), world.anvil.keys[3]
    theirs = params.model_copy(update={"recipient": accomplice.address, "commitment": commitment_to(rand)})
    tickets = tuple(sign_ticket(world.paying.identity.key, world.broker.domain, theirs, nonce) for nonce in range(3))
    taken = await world.redeem_as(accomplice, rand, *tickets)
    assert taken.amount_wei == 2 * FACE
    await world.settle()
    assert [await world.broker.is_redeemed(params, nonce) for nonce in (0, *range(100, 115))] == [True] * 16
    assert (await world.broker.funds(world.sender, world.node)).allocation == ALLOCATION - 16 * FACE


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
async def test_a_sender_that_unlocks_and_runs_runs_with_what_is_its_own(world: World) -> None:
    params = await world.earn(1)
    await world.look()
    assert not await world.broker.is_redeemed(params, 0)  # one alone is not worth a transaction
    await world.act(world.broker.unlock())
    await world.act(world.broker.allocate([(world.node, 0)]))
    await world.pass_time(15)
    await world.settle()
    assert await world.redeemed() == FACE
    newest = (await world.paying.store.account(world.node)).params
    assert newest is not None
    with pytest.raises(TicketUnfunded):
        await world.offer(newest, 7)

    await world.pass_time(UNLOCK_PERIOD)
    await world.act(world.broker.allocate([]))
    funds = await world.broker.funds(world.sender, world.node)
    await world.act(world.broker.withdraw_deposit(funds.deposit, world.sender))
    await world.act(world.broker.withdraw_reserve(funds.reserve - funds.allocated, world.sender))
    await world.settle()
    assert await world.redeemed() == FACE


@pytest.mark.parametrize("world", [PATIENT], indirect=True)
async def test_what_a_revoked_signer_has_signed_is_paid_and_nothing_after_it(world: World) -> None:
    params = await world.earn(1)
    await world.act(world.broker.revoke_signer(world.paying.identity.key.address))
    await world.pass_time(15)
    await world.settle()
    assert await world.broker.is_redeemed(params, 0)
    await world.pass_time(UNLOCK_PERIOD)
    newest = (await world.paying.store.account(world.node)).params
    assert newest is not None
    assert newest != params
    assert (await world.offer(newest, 7)).code == "ticket_signature_invalid"


async def test_a_recipient_that_does_not_take_its_payment_is_credited(world: World) -> None:
    """A wallet that is a contract may revert. One that calls back is for the tests of the contract."""
    refuser = world.anvil.keys[9].address
    world.anvil.rpc("anvil_setCode", refuser, "0x60006000fd")
    world.anvil.rpc("anvil_setCode", world.node, "0xef0100" + refuser[2:])  # delegated, by EIP-7702
    await world.earn(2)
    await world.settle()
    assert await world.redeemed() == 2 * FACE
    assert await world.earning.contract.credit() == await world.broker.credit(world.node) == 2 * FACE
    await world.act(world.broker.withdraw_credit(world.anvil.keys[3].address), world.earning.key)
    assert await world.broker.credit(world.node) == 0


@pytest.mark.parametrize("world", [20], indirect=True)
async def test_dear_gas_is_waited_out_until_winners_are_urgent(world: World) -> None:
    params = await world.earn(1)
    for step in (15, 600):
        world.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(60 * GWEI))
        await world.pass_time(step)
        await world.look()
        assert await world.earning.store.in_flight() == {}
    world.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(60 * GWEI))
    await world.pass_time(int(params.expiry - world.clock.now()) - 300)
    await world.settle()
    assert await world.broker.is_redeemed(params, 0)
    assert (await world.earning.store.totals(world.clock.now())).gas_spent > FACE * 20 // 100


@pytest.mark.parametrize("lie", [-4, 100], ids=["an old one", "one that is not there"])
async def test_an_endpoint_that_lies_about_the_head_makes_nothing_final(world: World, lie: int) -> None:
    params = await world.earn(1)
    await world.look()
    await world.look()
    assert await world.broker.is_redeemed(params, 0)
    world.anvil.mine()
    sent = await world.earning.store.pending()
    world.proxy.lie = lie
    for _ in range(3):
        await world.pass_time(200)  # enough to take it for stuck
        world.proxy.lie = lie
    assert (await world.earning.store.totals(world.clock.now())).redeemed == 0
    assert {each.tx_nonce for each in await world.earning.store.pending()} == {each.tx_nonce for each in sent}
    world.proxy.lie = 0
    await world.settle()
    assert await world.redeemed() == FACE
