import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tandem.cli.main import SUMMARIES, main

COMMANDS = tuple(SUMMARIES)


def test_help_lists_every_command_in_its_own_words() -> None:
    context = click.Context(main)
    assert main.list_commands(context) == list(COMMANDS)
    for name, summary in SUMMARIES.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(limit=200) == summary
    shown = CliRunner().invoke(main, ["--help"]).stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " "] == [*COMMANDS]


@pytest.mark.parametrize("command", [(), ("jobs",)], ids=["tandem", "tandem jobs"])
def test_help_is_quick_since_no_chain_is_imported_for_it(command: tuple[str, ...]) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "tandem", *command, "--help"]
    imported = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    assert "tandem.cli.main" in imported
    assert "web3" not in imported
    assert "sqlalchemy" not in imported


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
