"""What SIGKILL leaves of on-line work, on either side and under load."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from contextlib import ExitStack
from pathlib import Path
from socket import socket

from node.adapters.ticket_store import SqliteTicketStore
from orchestrator.adapters.store import open_store
from orchestrator.core.reconciliation import reconcile
from tandem.clock import SystemClock
from tests.fixtures.node import NODE
from tests.fixtures.protocol import DOMAIN

KILLS = 1
"""Of each side: a process takes seconds to start, and nothing else here takes long."""


class Market:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])

    async def start(self, side: str) -> Process:
        module = "tests.integration.payments.usage_process"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, side, str(self._folder), self._port, stdout=asyncio.subprocess.PIPE
        )
        self._stack.callback(_end, child)
        return child


def _end(child: Process) -> None:
    if child.returncode is None:
        child.kill()


async def windows(orchestrator: Process, count: int) -> None:
    """Until it has settled so many more: work is going on."""
    assert orchestrator.stdout is not None
    for _ in range(count):
        assert await orchestrator.stdout.readline() == b"window\n"


async def kill(child: Process) -> None:
    child.kill()
    await child.communicate()
    assert child.returncode == -signal.SIGKILL


async def test_no_more_is_lost_than_was_in_no_window(tmp_path: Path) -> None:
    with ExitStack() as stack:
        async with asyncio.timeout(60):
            market = Market(tmp_path, stack)
            orchestrator, node = await market.start("orchestrator"), await market.start("node")
            for _ in range(KILLS):
                await windows(orchestrator, 3)
                await kill(node)
                node = await market.start("node")
            before = await booked(tmp_path)
            for _ in range(KILLS):
                await windows(orchestrator, 3)
                await kill(orchestrator)
                orchestrator = await market.start("orchestrator")
            await windows(orchestrator, 3)
            node.terminate()
            served = int((await node.communicate())[0])
            await kill(orchestrator)
        on_line, lost = await booked(tmp_path)
        async with open_store(f"sqlite:///{tmp_path / 'db'}", SystemClock()) as store:
            assert (await store.account(NODE.address)).earned == on_line
            assert reconcile(await store.books("source"), "source", None).differences == ()
        assert before[1] == 0  # only the orchestrator forgets
        assert served - lost <= on_line
        assert lost < served / 2


async def booked(folder: Path) -> tuple[int, int]:
    """What the node has earned on line, and lost; also while it is at work."""
    async with SqliteTicketStore(folder / f"{NODE.address}.db", NODE.address, DOMAIN) as store:
        totals = await store.totals(0.0)
        return totals.on_line, totals.lost
