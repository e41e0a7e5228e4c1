"""The watchers of ledger and funds as a process of their own, to be killed. Its log goes to its standard output."""

import asyncio
import sys

from orchestrator.adapters.contract import EthereumTicketContract, EthereumTreasury
from orchestrator.adapters.store import open_store
from orchestrator.service.funding import FundsWatcher
from orchestrator.service.nodes import Nodes
from orchestrator.service.watching import ChainWatcher, WatchPolicy
from tandem import logging as log
from tandem.chain.rpc import connect
from tandem.chain.transactions import TransactionPolicy
from tandem.clock import SystemClock
from tandem.protocol.signing import SigningKey
from tandem.protocol.tickets import Domain
from tests.integration.orchestrator.chain import FUNDING

WATCHING = WatchPolicy(confirmations=1, most_blocks=3, poll_seconds=0.05)


async def main(store_url: str, rpc: str, contract: str, secret: str) -> None:
    log.set_up(stream=sys.stdout)
    clock, key = SystemClock(), SigningKey.from_bytes(bytes.fromhex(secret))
    domain = Domain(chain_id=31337, contract=contract)
    async with (
        open_store(store_url, clock) as store,
        EthereumTicketContract(lambda: connect(rpc), domain, key.address) as connected,
        asyncio.TaskGroup() as loops,
    ):
        treasury = EthereumTreasury(connected, key, store.journal("account"), clock, TransactionPolicy())
        funds = FundsWatcher(store, connected, Nodes(), clock, FUNDING, treasury, ())
        loops.create_task(ChainWatcher(store, connected, clock, WATCHING).run())
        while True:
            await funds.look()
            await clock.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
