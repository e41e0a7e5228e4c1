import subprocess
import sys

import pytest
from click.testing import CliRunner

from tandem.cli.main import main

COMMANDS = ("cancel", "chain", "infer", "jobs", "model", "node", "nodes", "orchestrator", "transcode")


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(main, ["--help"]).stdout
    listed = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.strip()]
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_an_unknown_command_is_a_wrong_use() -> None:
    assert CliRunner().invoke(main, ["mine"]).exit_code == 2


@pytest.mark.parametrize("module", ["tandem", "node", "orchestrator"])
def test_modules_run_as_commands(module: str) -> None:
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in shown
