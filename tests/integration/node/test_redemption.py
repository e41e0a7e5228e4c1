"""The daemon with a real chain: tickets in, ether out, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from node.adapters.ticket_store import SqliteTicketStore
from node.app import serve
from node.ports.execution import Detected
from node.ports.tickets import TicketTotals
from node.service.attempts import Executors
from node.settings import NodeSettings, OrchestratorSection, RedemptionSection, TicketSection
from node.standing import Wei, standing
from orchestrator.core.session import Proven
from tandem.chain.broker import TicketBroker
from tandem.chain.settings import ChainSection
from tandem.clock import SystemClock
from tandem.protocol.messages import PaymentReceipt, TicketTerms, TicketTermsReply
from tandem.protocol.tickets import TicketParams
from tests.fixtures.anvil import Anvil, transaction_sender
from tests.fixtures.node import OFFER, ScriptedExecutors, payment, until
from tests.fixtures.peer import Peer, serving

FACE = 10**16
ETHER = 10**18


@pytest.fixture
async def peer(anvil: Anvil, broker: TicketBroker) -> AsyncIterator[Peer]:
    """An orchestrator whose sender has allocated one ether to the node."""
    sender = transaction_sender(broker.chain, anvil.keys[0])
    await sender.send(broker.fund_reserve(sender.address, ETHER), "fund")
    await sender.send(broker.allocate([(anvil.keys[1].address, ETHER)]), "allocate")
    async with serving(Peer(domain=broker.domain, sender=sender.address, key=anvil.keys[0])) as peer:
        yield peer


def settings(data: Path, peer: Peer, anvil: Anvil, broker: TicketBroker) -> NodeSettings:
    return NodeSettings(
        data=data,
        grace=0.2,
        orchestrator=OrchestratorSection(url=peer.origin),
        chain=ChainSection(rpc=anvil.url, contract=broker.address, poll=0.02, confirmations=1, stall=0),
        tickets=TicketSection(odds=1, min_face_value=FACE, max_face_value=FACE, lifetime=1000, max_unpaid=ETHER),
        redemption=RedemptionSection(gas_percent=100, urgent_before=10),
    )


@asynccontextmanager
async def daemon(settings: NodeSettings, anvil: Anvil, *, crash: bool = False) -> AsyncIterator[None]:
    stop, work = asyncio.Event(), ScriptedExecutors()
    executors = Executors(work, work, work, settings.data)
    detected = Detected(OFFER.capability, OFFER.capacity)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(serve(settings, anvil.keys[1], detected, executors, SystemClock(), stop))
        yield
        if crash:
            running.cancel()
        stop.set()


async def agree(peer: Peer) -> TicketParams:
    params = (await peer.hears(TicketTerms)).params
    await peer.say(TicketTermsReply(commitment=params.commitment, accepted=True))
    return params


async def pay(peer: Peer, params: TicketParams, nonces: range, number: int = 1) -> PaymentReceipt:
    await peer.say(payment(params, nonces, number=number, key=peer.key, domain=peer.domain))
    return await peer.hears(PaymentReceipt)


async def totals(settings: NodeSettings, anvil: Anvil, broker: TicketBroker) -> TicketTotals:
    async with SqliteTicketStore(settings.data / "tickets.db", anvil.keys[1].address, broker.domain) as store:
        return await store.totals(SystemClock().now())


async def paid_for(params: TicketParams, count: int, broker: TicketBroker) -> None:
    async with asyncio.timeout(20):
        while not all([await broker.is_redeemed(params, nonce) for nonce in range(count)]):
            pass


async def settled(settings: NodeSettings, anvil: Anvil, broker: TicketBroker) -> TicketTotals:
    async with asyncio.timeout(20):
        while not (found := await totals(settings, anvil, broker)).redeemed:
            pass
    return found


async def test_winners_are_paid_in_one_transaction(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer
) -> None:
    node = settings(tmp_path, peer, anvil, broker)
    before = await broker.chain.balance(anvil.keys[1].address)
    async with daemon(node, anvil):
        await peer.hears(Proven)
        params = await agree(peer)
        assert (await pay(peer, params, range(3))).accepted
        await agree(peer)
        found = await settled(node, anvil, broker)
    assert (found.redeemed, found.winners, found.outstanding) == (3 * FACE, 3, 0)
    after = await broker.chain.balance(anvil.keys[1].address)
    assert after - before == 3 * FACE - found.gas_spent
    assert 0 < found.gas_spent < 3 * FACE


async def test_a_node_that_dies_between_sending_and_mining_is_paid_once(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer
) -> None:
    node = settings(tmp_path, peer, anvil, broker)
    before = await broker.chain.balance(anvil.keys[1].address)
    async with daemon(node, anvil, crash=True):
        await peer.hears(Proven)
        params = await agree(peer)
        assert (await pay(peer, params, range(3))).accepted
        anvil.rpc("evm_setAutomine", False)  # noqa: FBT003 - as anvil has it
        await agree(peer)
        await until(lambda: anvil.rpc("txpool_status")["pending"] != "0x0")
    assert (await totals(node, anvil, broker)).redeemed == 0
    anvil.rpc("evm_setAutomine", True)  # noqa: FBT003 - as anvil has it
    anvil.mine()
    async with daemon(node, anvil):
        found = await settled(node, anvil, broker)
    assert (found.redeemed, found.outstanding) == (3 * FACE, 0)
    assert await broker.chain.balance(anvil.keys[1].address) - before == 3 * FACE - found.gas_spent


async def test_a_node_that_dies_before_it_redeems_does_so_when_it_is_back(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer
) -> None:
    node = settings(tmp_path, peer, anvil, broker)
    async with daemon(node, anvil, crash=True):
        await peer.hears(Proven)
        params = await agree(peer)
        assert (await pay(peer, params, range(2))).accepted
    while not peer.heard.empty():
        peer.heard.get_nowait()
    async with daemon(node, anvil):
        await peer.hears(Proven)
        await agree(peer)
        async with asyncio.timeout(20):
            while not await broker.is_redeemed(params, 1):
                if not peer.heard.empty():
                    await agree(peer)
        await paid_for(params, 2, broker)
        assert (await settled(node, anvil, broker)).redeemed == 2 * FACE


async def test_a_signer_that_the_contract_does_not_know_is_refused(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer
) -> None:
    peer.key = anvil.keys[2]
    node = settings(tmp_path, peer, anvil, broker)
    async with daemon(node, anvil):
        await peer.hears(Proven)
        receipt = await pay(peer, await agree(peer), range(1))
    assert (receipt.accepted, receipt.code) == (False, "ticket_signature_invalid")


async def test_status_says_how_a_running_node_stands(
    tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer
) -> None:
    node, key, clock = settings(tmp_path, peer, anvil, broker), anvil.keys[1], SystemClock()
    async with daemon(node, anvil):
        await peer.hears(Proven)
        await agree(peer)
        async with asyncio.timeout(20):
            while (shown := await standing(node, key, clock))["problems"]:
                pass
        assert (shown["chain"], shown["allocation"], shown["unpaid"]) == ("answers", Wei(ETHER), Wei(0))
        await transaction_sender(broker.chain, anvil.keys[0]).send(broker.allocate([(key.address, 1)]), "lower")
        gone = node.model_copy(update={"chain": node.chain.model_copy(update={"rpc": ("http://127.0.0.1:1",)})})
        shown = await standing(gone, key, clock)
        assert str(shown["chain"]).startswith("no answer: ")
        assert (await standing(node, key, clock))["allocation"] == Wei(1)


async def test_a_wrong_contract_ends_the_node(tmp_path: Path, anvil: Anvil, broker: TicketBroker, peer: Peer) -> None:
    node = settings(tmp_path, peer, anvil, broker)
    chain = node.chain.model_copy(update={"contract": "0x" + "cd" * 20})
    with pytest.raises(BaseExceptionGroup, match="unhandled"):
        async with daemon(node.model_copy(update={"chain": chain}), anvil):
            await asyncio.Event().wait()
