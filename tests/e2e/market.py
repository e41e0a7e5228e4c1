"""A whole market as processes: anvil, an orchestrator, nodes, each started by the command that a user types."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.chain.broker import TicketBroker
from tandem.chain.keystore import create_keystore
from tandem.chain.rpc import connect
from tandem.client import TandemClient
from tandem.protocol.errors import TandemError
from tests.fixtures.anvil import UNLOCK_PERIOD, Anvil

ETHER = 10**18
PASSWORD = "only for tests"
CHEAP_KEY = 2
"""scrypt's n: a key that opens at once."""
ODDS = 2
EXPECTED_VALUE = 2 * 10**9
"""Of a ticket, in wei: so little that a job earns dozens."""
FACE_VALUE = EXPECTED_VALUE * ODDS
MAX_AHEAD = 5_000 * EXPECTED_VALUE
CHEAP_GAS = ("--block-base-fee-per-gas", "1")
"""anvil's own fee would cost more than these tickets are worth."""

_PATIENCE = 90.0
_POLL = 0.1


async def until(what: str, condition: Callable[[], Any], patience: float = _PATIENCE) -> Any:
    """Polls until the condition gives something true, which it returns; it may be a coroutine function."""
    try:
        async with asyncio.timeout(patience):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise AssertionError(f"waited {patience:.0f} s for {what}") from None


@dataclass
class Running:
    """A process of ours, in a group of its own."""

    name: str
    command: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """SIGKILL, to the process alone: its children must go by themselves."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(_PATIENCE)

    def output(self) -> str:
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log's lines about this event."""
        lines = (json.loads(line) for line in self.output().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tandem(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tandem", *arguments]


@dataclass
class Market:
    folder: Path
    anvil: Anvil
    contract: str = ""
    port: int = field(default_factory=free_port)
    lease: float = 6.0
    addresses: dict[str, str] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sender(self) -> str:
        return self.anvil.keys[0].address

    def deploy(self) -> None:
        """The contract, with deposit and reserve of the sender, whose key also signs here."""
        (self.folder / "password").write_text(PASSWORD)
        self._write_keystore()
        account = [*self._rpc, "--keystore", f"{self.folder}/sender.json", "--password-file", f"{self.folder}/password"]
        answer = self._run("chain", "deploy", *account, "--unlock-period", str(UNLOCK_PERIOD), "--json")
        self.contract = json.loads(answer)["contract"]
        at = ["--contract", self.contract]
        self._run("chain", "fund", *account, *at, "--deposit", "1 ether", "--reserve", "1 ether")

    def start_orchestrator(self, *flags: str) -> Running:
        return self._start("orchestrator", "orchestrator", "run", *self._settings, *flags)

    def ledger(self) -> dict[str, Any]:
        """What `tandem orchestrator ledger` says, which ends by 0 if nothing differs and the chain answered."""
        found: dict[str, Any] = json.loads(self._run("orchestrator", "ledger", "--json", *self._settings))
        return found

    def start_node(self, name: str, *flags: str) -> Running:
        """A node with gas money, and its part of the reserve."""
        data = self.folder / name
        if name not in self.addresses:
            data.mkdir()
            (data / "key.password").write_text(PASSWORD)
            address = create_keystore(data / "key.json", data / "key.password", work_factor=CHEAP_KEY)
            self.addresses[name] = address
            self.anvil.rpc("anvil_setBalance", address, hex(ETHER))
            self._allocate(address)
        return self._start(
            name,
            *("node", "run", "--data", str(data), "--orchestrator.url", self.url),
            *("--chain.rpc", self.anvil.url, "--chain.contract", self.contract, "--chain.poll", "0.1"),
            *("--chain.confirmations", "1", "--chain.stall", "0"),
            *("--chain.max-priority-fee-per-gas", "0", "--redemption.refresh", "1"),
            *("--tickets.min-face-value", str(FACE_VALUE), "--tickets.odds", str(ODDS)),
            *("--tickets.max-face-value", str(FACE_VALUE)),
            *flags,
        )

    def name_of(self, address: str) -> str:
        return next(name for name, known in self.addresses.items() if known == address)

    async def ready(self, client: TandemClient, nodes: int) -> None:
        """Until so many nodes are connected."""

        async def connected() -> bool:
            try:
                return len((await client.nodes()).nodes) == nodes
            except TandemError:
                return False

        await until(f"{nodes} nodes", connected)

    async def balance(self, name: str) -> int:
        """Wei that the node has on the chain."""
        async with connect(self.anvil.url) as chain:
            return await chain.balance(self.addresses[name])

    def status(self, name: str) -> dict[str, int]:
        """The amounts and counts that `tandem node status` says."""
        answer = self._run(
            "node", "status", "--data", f"{self.folder}/{name}", "--chain.contract", self.contract, "--json"
        )
        return {key: int(value) for key, value in json.loads(answer).items() if str(value).isdecimal()}

    async def deposit(self) -> int:
        async with connect(self.anvil.url) as chain:
            funds = await TicketBroker(chain, self.contract).funds(self.sender, self.sender)
        return funds.deposit

    def stop(self) -> None:
        for running in reversed(self.started):
            if running.process.poll() is None:
                running.kill()

    @property
    def _settings(self) -> list[str]:
        """Of the orchestrator."""
        return [
            *("--data", f"{self.folder}/orchestrator", "--http.port", str(self.port)),
            *("--chain.rpc", self.anvil.url, "--chain.contract", self.contract, "--chain.stall", "0"),
            *("--chain.confirmations", "1", "--ledger.poll", "0.5"),
            *("--chain.keystore", f"{self.folder}/sender.json", "--chain.password-file", f"{self.folder}/password"),
            *("--leases.lease", str(self.lease), "--payment.max-ahead", str(MAX_AHEAD)),
        ]

    @property
    def _rpc(self) -> list[str]:
        return ["--rpc", self.anvil.url]

    def _write_keystore(self) -> None:
        from eth_account import Account

        encrypted = Account.encrypt(self.anvil.keys[0].secret, PASSWORD, iterations=CHEAP_KEY)
        (self.folder / "sender.json").write_text(json.dumps(encrypted))

    def _allocate(self, address: str) -> None:
        account = ["--keystore", f"{self.folder}/sender.json", "--password-file", f"{self.folder}/password"]
        self._run("chain", "allocate", address, "0.1 ether", *self._rpc, *account, "--contract", self.contract)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(tandem(*arguments), capture_output=True, text=True, timeout=_PATIENCE, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def _start(self, name: str, *arguments: str) -> Running:
        command = tandem(*arguments)
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        running = Running(name, command, log, process)
        self.started.append(running)
        return running


@asynccontextmanager
async def watched(market: Market) -> AsyncIterator[TandemClient]:
    """A client of the market; on a failure every process's log is shown."""
    try:
        async with TandemClient(market.url) as client:
            yield client
    except BaseException:
        for _running in market.started:
            pass
        raise


@contextmanager
def opened(folder: Path, anvil: Anvil) -> Iterator[Market]:
    market = Market(folder, anvil)
    try:
        market.deploy()
        yield market
    finally:
        market.stop()


def alive_in_group(leader: int) -> list[int]:
    """Processes of a group that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def kill_group(leader: int) -> None:
    os.killpg(leader, signal.SIGKILL)
