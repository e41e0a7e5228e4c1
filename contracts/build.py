"""Compiles the contract and writes its committed artifact: `python contracts/build.py`, after `npm ci` in here.

The artifact lies in the package that loads it, so that it is in the wheel; `contracts/artifacts` links to it.
"""

# ruff: noqa: INP001, S603
import json
import subprocess
import sys
from pathlib import Path

CONTRACTS = Path(__file__).parent
ARTIFACT = CONTRACTS / "artifacts" / "TicketBroker.json"


def build() -> str:
    """The artifact's text from a fresh compilation."""
    subprocess.run([CONTRACTS / "bin" / "forge", "build", "--quiet", "--skip", "test"], cwd=CONTRACTS, check=True)
    output = json.loads((CONTRACTS / "out" / "TicketBroker.sol" / "TicketBroker.json").read_text())
    artifact = {
        "contractName": "TicketBroker",
        "compiler": output["metadata"]["compiler"]["version"],
        "abi": output["abi"],
        "bytecode": output["bytecode"]["object"],
        "deployedBytecode": output["deployedBytecode"]["object"],
    }
    return json.dumps(artifact, indent=1) + "\n"


if __name__ == "__main__":
    ARTIFACT.write_text(build())
    sys.stdout.write(f"wrote {ARTIFACT}\n")
