"""The node's view of the contract on a real chain, there or not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.adapters.contract import EthereumTicketContract, RedemptionJournal
from node.adapters.ticket_store import SqliteTicketStore
from node.core.redemption import WinningSet
from node.core.terms import recipient_rand
from node.ports.contract import Paid
from tandem.chain.broker import TicketBroker
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import MemoryJournal
from tandem.clock import SystemClock
from tandem.protocol.errors import ChainError, ChainUnavailable, ConfigurationError
from tandem.protocol.hashing import keccak
from tandem.protocol.signing import Address
from tests.fixtures.anvil import UNLOCK_PERIOD, Anvil, transaction_sender
from tests.fixtures.endpoint import Answer, unreliable
from tests.fixtures.node import terms
from tests.integration.node.redeeming import win

ETHER = 10**18
REDEEMED = "0x" + keccak(b"TicketsRedeemed(address,address,bytes32,uint32[],uint256,uint256)").hex()


class Journal(MemoryJournal):
    """Of a node that is not asked to redeem."""

    def redeeming(self, _: Sequence[WinningSet]) -> nullcontext[None]:
        return nullcontext()


def contract_at(
    url: str, address: Address, anvil: Anvil, journal: RedemptionJournal | None = None
) -> EthereumTicketContract:
    settings = ChainSection(rpc=(url,), contract=address, confirmations=1, stall=0)
    return EthereumTicketContract(settings, anvil.keys[1], journal or Journal(), SystemClock())


@pytest.fixture
async def contract(anvil: Anvil, broker: TicketBroker) -> AsyncIterator[EthereumTicketContract]:
    async with contract_at(anvil.url, broker.address, anvil) as contract:
        yield contract


async def test_it_tells_what_backs_tickets(
    anvil: Anvil, broker: TicketBroker, contract: EthereumTicketContract
) -> None:
    sender, signer, node = (anvil.keys[index].address for index in (0, 2, 1))
    orchestrator = transaction_sender(broker.chain, anvil.keys[0])
    for call in (
        broker.fund_deposit(sender, ETHER),
        broker.fund_reserve(sender, ETHER),
        broker.allocate([(node, ETHER // 2)]),
        broker.authorise_signer(signer),
    ):
        await orchestrator.send(call, "prepare")
    found = await contract.backing(sender, {signer, node})
    assert (found.promised, found.available, found.leaving) == (ETHER // 2, ETHER * 3 // 2, False)
    assert found.signers == {signer: 2**64 - 1, node: 0}
    assert found.good_until - SystemClock().now() == pytest.approx(UNLOCK_PERIOD, abs=5)
    assert await contract.unlock_period() == UNLOCK_PERIOD
    assert await contract.gas_price() > 0
    assert await contract.outcomes() == ()
    assert await contract.credit() == 0


@pytest.mark.parametrize("leaves", ["unlock", "lower", "revoke"])
async def test_it_tells_when_the_sender_leaves(
    anvil: Anvil, broker: TicketBroker, contract: EthereumTicketContract, leaves: str
) -> None:
    sender, signer, node = (anvil.keys[index].address for index in (0, 2, 1))
    orchestrator = transaction_sender(broker.chain, anvil.keys[0])
    await orchestrator.send(broker.fund_reserve(sender, ETHER), "prepare")
    await orchestrator.send(broker.allocate([(node, ETHER)]), "prepare")
    await orchestrator.send(broker.authorise_signer(signer), "prepare")
    calls = {
        "unlock": broker.unlock(),
        "lower": broker.allocate([(node, 1)]),
        "revoke": broker.revoke_signer(signer),
    }
    await orchestrator.send(calls[leaves], "leave")
    found = await contract.backing(sender, {signer})
    assert (found.leaving, found.is_revoked(signer)) == (leaves != "revoke", leaves == "revoke")
    assert found.promised == (1 if leaves == "lower" else ETHER)
    anvil.warp(UNLOCK_PERIOD)
    assert (await contract.backing(sender, {signer})).leaving == (leaves == "unlock"), "what is over is no hurry"


async def test_a_chain_that_is_away_is_no_end(anvil: Anvil, broker: TicketBroker) -> None:
    async with contract_at("http://127.0.0.1:1", broker.address, anvil) as contract:
        for _ in range(2):
            with pytest.raises(ChainUnavailable):
                await contract.gas_price()


def lies(method: str, field: str | None, lie: object) -> Answer:
    def change(asked: str, result: Any) -> Any:
        if asked != method:
            return result
        if field is None or not isinstance(result, dict):
            return lie
        return result | {field: lie}

    return change


@pytest.mark.parametrize(
    ("method", "field", "lie"),
    [
        ("eth_getTransactionCount", None, hex(2**63)),
        ("eth_estimateGas", None, "-0x5"),
        ("eth_getBalance", None, None),
        ("eth_getBlockByNumber", "number", []),
        ("eth_getBlockByNumber", "baseFeePerGas", None),
        ("eth_getBlockByNumber", "baseFeePerGas", "-0x" + "f" * 40),
        ("eth_getBlockByNumber", "baseFeePerGas", 1.5),
        ("eth_getTransactionReceipt", "gasUsed", 1.5),
        ("eth_getTransactionReceipt", "effectiveGasPrice", []),
        ("eth_getTransactionReceipt", "logs", "0x0"),
        ("eth_getTransactionReceipt", "logs", [{"topics": []}]),
        ("eth_getTransactionReceipt", "logs", [{"topics": ["0x12"]}]),
        ("eth_getTransactionReceipt", "logs", [{"topics": [REDEEMED], "data": "0x" + "ff" * 64}]),
    ],
)
async def test_no_answer_ends_the_node(
    anvil: Anvil, broker: TicketBroker, tmp_path: Path, method: str, field: str | None, lie: Any
) -> None:
    node, sender = anvil.keys[1], anvil.keys[0]
    await transaction_sender(broker.chain, sender).send(broker.fund_deposit(sender.address, ETHER), "fund")
    if field == "logs" and isinstance(lie, list):
        lie = [{"address": broker.address, "data": "0x", "blockNumber": "0x1", "logIndex": "0x0"} | lie[0]]
    async with (
        unreliable(anvil.url) as endpoint,
        SqliteTicketStore(tmp_path / "tickets.db", node.address, broker.domain) as store,
        contract_at(endpoint.url, broker.address, anvil, store) as contract,
    ):
        section = ChainSection(contract=broker.address)
        await win(store, section, node, sender.address, sender, [0])
        (won,) = await store.winners(0)
        rand = recipient_rand(store.secret, won.params, won.epoch)
        assert await contract.outcomes() == ()
        endpoint.change = lies(method, field, lie)
        for call in (contract.gas_price(), contract.redeem((won,), (rand,))):
            with suppress(ChainUnavailable, ChainError):
                await call
        with suppress(ChainUnavailable, ChainError):
            assert await contract.outcomes() == ()
        endpoint.change = lambda _method, result: result
        if not await store.pending():
            await contract.redeem((won,), (rand,))
        while not (found := await contract.outcomes()):
            anvil.mine()
        assert found[0].result is not None
        assert found[0].result.amount_wei == won.value


async def test_one_endpoint_alone_undoes_no_payment(anvil: Anvil, broker: TicketBroker) -> None:
    gone = Paid(bytes(32), 0, bytes(32), terms(), 0)
    kept = replace(gone, block_hash=(await broker.chain.block(0)).hash)
    lie = lies("eth_getBlockByNumber", "hash", "0x" + "ee" * 32)
    async with unreliable(anvil.url) as endpoint:
        for urls, undone in (((endpoint.url,), True), ((endpoint.url, anvil.url), False)):
            endpoint.change = lambda _method, result: result
            settings = ChainSection(rpc=urls, contract=broker.address, confirmations=1, stall=0)
            async with EthereumTicketContract(settings, anvil.keys[1], Journal(), SystemClock()) as contract:
                assert await contract.is_undone(gone)
                assert not await contract.is_undone(kept)
                endpoint.change = lie
                assert await contract.is_undone(kept) is undone


async def test_another_contract_is_a_wrong_setting(anvil: Anvil, broker: TicketBroker) -> None:
    async with contract_at(anvil.url, "0x" + "cd" * 20, anvil) as contract:
        with pytest.raises(ConfigurationError):
            await contract.outcomes()
