"""What SIGKILL leaves of ledger and funds, whenever it comes."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from orchestrator.core.reconciliation import reconcile
from orchestrator.service.ledger import contract_figures
from orchestrator.service.nodes import Nodes
from tests.integration.orchestrator.chain import FUNDING, Books, Purse, catch_up


async def killed_at(event: str, *arguments: str) -> None:
    """Runs the watchers until they have logged this."""
    module = "tests.integration.orchestrator.accounting_process"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            while json.loads(await child.stdout.readline())["event"] != event:
                pass
    finally:
        child.kill()
        await child.communicate()
    assert child.returncode == -signal.SIGKILL


async def test_nothing_is_read_or_sent_twice(books: Books, tmp_path: Path) -> None:
    secret = books.operator.secret.hex()
    arguments = (f"sqlite:///{tmp_path / 'tandem.db'}", books.anvil.url, books.broker.address, secret)
    with books.anvil.mining_on_demand():
        await killed_at("funds_moved", *arguments)  # one transaction is in flight, or two
        books.anvil.mine()
        await killed_at("chain_read", *arguments)  # mined and in the ledger, and perhaps not acknowledged
        books.anvil.mine(5)
    purse, watcher = Purse(books, Nodes()), books.watcher(most_blocks=2)
    assert await books.store.spent_since(0) >= FUNDING.deposit
    await purse.look(purse.watcher(), 3)
    await catch_up(watcher)
    funds = await purse.funds()
    assert (funds.deposit, funds.reserve) == (FUNDING.deposit, FUNDING.reserve)
    found = await books.store.books(books.contract.source)
    reconciled = reconcile(found, books.contract.source, await contract_figures(found, books.contract))
    assert reconciled.differences == ()
    assert (reconciled.entries, reconciled.chain) == (2, FUNDING.deposit + FUNDING.reserve)
