"""What the ticket store has acknowledged survives SIGKILL, and nothing is there by half."""

import subprocess
import sys
from pathlib import Path

from node.adapters.ticket_store import SqliteTicketStore
from tests.fixtures.node import DOMAIN, NODE, NOW, SENDER, ref
from tests.integration.node.till import TICKETS

ROOT = Path(__file__).parents[3]


def take_payments_and_die(path: Path, at_least: int) -> int:
    """The last payment that was acknowledged."""
    command = [sys.executable, "-m", "tests.integration.node.till", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= at_least:
                process.kill()
                break
        rest = process.stdout.read().split()
    return int(rest[-1]) if rest else at_least


async def test_acknowledged_tickets_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "tickets.db"
    acknowledged = take_payments_and_die(path, 20)
    async with SqliteTicketStore(path, NODE.address, DOMAIN) as store:
        totals = await store.totals(NOW)
        payments, rest = divmod(totals.winners, TICKETS)
        assert rest == 0
        assert payments in {acknowledged, acknowledged + 1}
        assert totals.received == totals.tickets * 999
        assert totals.attempts in {acknowledged, payments}
        again = await store.earn(SENDER.address, ref(1), 10)
        assert again.earned == totals.earned
