"""The node's view of the contract on a real chain, there or not."""

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext

import pytest

from node.adapters.contract import EthereumTicketContract
from node.core.redemption import WinningSet
from tandem.chain.broker import TicketBroker
from tandem.chain.settings import ChainSection
from tandem.chain.transactions import MemoryJournal
from tandem.clock import SystemClock
from tandem.protocol.errors import ChainUnavailable, ConfigurationError
from tandem.protocol.signing import Address
from tests.fixtures.anvil import UNLOCK_PERIOD, Anvil, transaction_sender

ETHER = 10**18


class Journal(MemoryJournal):
    """Of a node that is not asked to redeem."""

    def redeeming(self, _: Sequence[WinningSet]) -> nullcontext[None]:
        return nullcontext()


def contract_at(url: str, address: Address, anvil: Anvil, broker: TicketBroker) -> EthereumTicketContract:
    settings = ChainSection(rpc=(url,), contract=address, confirmations=1, stall=0)
    return EthereumTicketContract(settings, anvil.keys[1], Journal(), SystemClock())


@pytest.fixture
async def contract(anvil: Anvil, broker: TicketBroker) -> AsyncIterator[EthereumTicketContract]:
    async with contract_at(anvil.url, broker.address, anvil, broker) as contract:
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
    async with contract_at("http://127.0.0.1:1", broker.address, anvil, broker) as contract:
        for _ in range(2):
            with pytest.raises(ChainUnavailable):
                await contract.gas_price()


async def test_another_contract_is_a_wrong_setting(anvil: Anvil, broker: TicketBroker) -> None:
    async with contract_at(anvil.url, "0x" + "cd" * 20, anvil, broker) as contract:
        with pytest.raises(ConfigurationError):
            await contract.outcomes()
