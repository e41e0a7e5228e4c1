from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.adapters.contract import EthereumTicketContract
from orchestrator.adapters.store import open_store
from tandem.chain.broker import TicketBroker
from tandem.chain.rpc import Chain, connect
from tests.fixtures.anvil import Anvil
from tests.fixtures.clock import ManualClock
from tests.integration.orchestrator.chain import Books, Unsteady


@pytest.fixture
async def books(
    anvil: Anvil, chain: Chain, broker: TicketBroker, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Books]:
    async with (
        open_store(f"sqlite:///{tmp_path / 'tandem.db'}", clock) as store,
        EthereumTicketContract(lambda: connect(anvil.url), broker.domain, anvil.keys[1].address) as contract,
    ):
        yield Books(anvil, chain, broker, store, clock, Unsteady(contract))
