"""A chain, an orchestrator and two nodes, started by the commands that a user would type."""

import json
import secrets
import socket
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.pictures import Earnings
from demo.processes import Processes, Running

ROOT = Path(__file__).parents[1]
PROGRAMS = (Path(sys.executable).parent, ROOT / "contracts" / "node_modules" / ".bin")
ETHER = 10**18

_SETTINGS = ROOT / "config" / "local"
_NODES = ("node-1", "node-2")
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Marketplace:
    processes: Processes
    rpc: str
    contract: str
    operator: str
    url: str
    """Of the orchestrator."""
    nodes: Mapping[str, str]
    """Addresses by name."""

    def node(self, name: str, *command: str) -> list[str]:
        """A command of `tandem node` with the settings of one of the nodes."""
        settings = ["--config", str(_SETTINGS / "node.toml"), "--data", name]
        chain = ["--chain.rpc", self.rpc, "--chain.contract", self.contract]
        return ["tandem", "node", *command, *settings, *chain, "--orchestrator.url", self.url]

    def orchestrator(self, *command: str) -> list[str]:
        """A command of `tandem orchestrator` with its settings."""
        arguments = {
            "config": str(_SETTINGS / "orchestrator.toml"),
            "data": "orchestrator",
            "http.port": self.url.rpartition(":")[2],
            "chain.rpc": self.rpc,
            "chain.contract": self.contract,
            "chain.sender": self.operator,
            "chain.keystore": "signer.json",
            "chain.password-file": "password",
        }
        flags = [word for name, value in arguments.items() for word in (f"--{name}", value)]
        return ["tandem", "orchestrator", *command, *flags]

    def status(self) -> dict[str, dict[str, Any]]:
        """What each node says of its tickets."""
        outputs = self.processes.run_together(*(self.node(name, "status", "--json") for name in self.nodes))
        return {name: json.loads(output) for name, output in zip(self.nodes, outputs, strict=True)}

    def balances(self) -> dict[str, int]:
        """What each node's account holds on the chain, in wei."""
        commands = (
            ["tandem", "chain", "balance", "--rpc", self.rpc, "--json", address] for address in self.nodes.values()
        )
        outputs = self.processes.run_together(*commands)
        return {name: int(json.loads(output)["wei"]) for name, output in zip(self.nodes, outputs, strict=True)}

    def earnings(self, before: Mapping[str, int]) -> list[Earnings]:
        status, after = self.status(), self.balances()
        return [
            Earnings(
                name=name,
                address=address,
                earned=int(status[name]["earned"]),
                received=int(status[name]["received"]),
                tickets=status[name]["tickets"],
                winners=status[name]["winners"],
                paid=int(status[name]["redeemed"]),
                gas=int(status[name]["gas_spent"]),
                outstanding=int(status[name]["outstanding"]),
                before=before[name],
                after=after[name],
            )
            for name, address in self.nodes.items()
        ]


def start_chain(processes: Processes) -> str:
    """The chain's RPC endpoint."""
    anvil = processes.start("anvil", "anvil", "--port", "0", "--base-fee", "10000000")

    def endpoint() -> str | None:
        lines = anvil.log.read_text(errors="replace").splitlines()
        found = [line.split()[-1] for line in lines if line.startswith("Listening on ")]
        return f"http://{found[0]}" if found else None

    return processes.wait_for("anvil to listen", endpoint, _START_SECONDS)


def deploy(processes: Processes, rpc: str, names: Sequence[str] = _NODES) -> Marketplace:
    """The contract, the accounts, one for each node too, and the money behind the tickets."""
    (processes.folder / "password").write_text(secrets.token_urlsafe() + "\n")
    operator, signer = processes.run_together(*(_create_key(name) for name in ("operator", "signer")))
    _give(rpc, operator, 10 * ETHER)
    account = ["--rpc", rpc, "--keystore", "operator.json", "--password-file", "password"]
    contract = processes.run("tandem", "chain", "deploy", *account, "--unlock-period", "86400")
    account += ["--contract", contract]
    found = Marketplace(
        processes, rpc, contract, operator, f"http://127.0.0.1:{_free_port()}", dict.fromkeys(names, "")
    )
    addresses = processes.run_together(*(found.node(name, "key", "create") for name in names))
    processes.run("tandem", "chain", "fund", *account, "--deposit", "1ether", "--reserve", "1ether")
    processes.run("tandem", "chain", "authorise-signer", *account, signer)
    shares = [word for address in addresses for word in (address, "0.5ether")]
    processes.run("tandem", "chain", "allocate", *account, *shares)
    for address in addresses:
        _give(rpc, address, ETHER // 10)
    nodes = dict(zip(names, addresses, strict=True))
    return Marketplace(processes, rpc, contract, operator, found.url, nodes)


def start_orchestrator(market: Marketplace) -> Running:
    started = market.processes.start("orchestrator", *market.orchestrator("run"))
    market.processes.wait_for("the orchestrator to be ready", lambda: _ready(market.url), _START_SECONDS)
    return started


def start_nodes(market: Marketplace) -> None:
    for name in market.nodes:
        market.processes.start(name, *market.node(name, "run"))


def _create_key(name: str) -> list[str]:
    return ["tandem", "chain", "keystore", "create", f"{name}.json", "--password-file", "password"]


def _give(rpc: str, address: str, wei: int) -> None:
    """What a faucet does on a public test chain."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "anvil_setBalance", "params": [address, hex(wei)]}
    request = urllib.request.Request(rpc, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass


def _ready(url: str) -> bool | None:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2):
            return True
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
