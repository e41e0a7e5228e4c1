"""Fails unless tests cover every line, statement, branch and function of the contract: `python contracts/coverage.py`.

Without optimizer, since coverage is counted by source lines; without invariants, since what chance reaches is no proof.
"""

# ruff: noqa: INP001, S603
import os
import subprocess
import sys
from pathlib import Path

CONTRACTS = Path(__file__).parent
COMMAND = ("coverage", "--report=summary", "--no-match-coverage=test", "--no-match-contract=InvariantsTest|GasTest")
KINDS = 4


def total(report: str) -> list[str]:
    """The percentages of lines, statements, branches and functions from forge's table; none if it has no such row."""
    rows = [line.split("|")[2:-1] for line in report.splitlines() if line.startswith("| Total ")]
    return [cell.split()[0] for row in rows for cell in row]


if __name__ == "__main__":
    forge = CONTRACTS / "bin" / "forge"
    environment = os.environ | {"FOUNDRY_PROFILE": "plain", "FOUNDRY_FUZZ_RUNS": "16"}
    done = subprocess.run(
        [forge, *COMMAND], cwd=CONTRACTS, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode != 0 or total(done.stdout) != ["100.00%"] * KINDS:
        sys.exit(f"expected all of the contract to be covered by its tests, found:\n{done.stdout}{done.stderr}")
    sys.stdout.write("contract: 100 % of lines, statements, branches and functions covered\n")
