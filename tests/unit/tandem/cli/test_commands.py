import asyncio
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem.cli.commands import SettingsCommand, TandemGroup
from tandem.protocol.errors import ChainUnavailable, ConfigurationError, NotFound


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="TANDEM_TEST__", env_nested_delimiter="__", use_attribute_docstrings=True
    )

    port: int
    """The port."""
    names: tuple[str, ...] = ("a",)
    """Its names."""


@click.group(cls=TandemGroup)
def tandem() -> None:
    """The group under test."""


@tandem.command(cls=SettingsCommand, settings=Settings)
@click.argument("word")
@click.option("--loud", is_flag=True)
def say(settings: Settings, word: str, loud: bool) -> None:
    """Shows what arrived."""
    click.echo(f"{settings.port} {settings.names} {word} {loud}")


@tandem.command()
@click.argument("what")
def fail(what: str) -> None:
    """Fails."""
    asyncio.run(_fail(what))


async def _fail(what: str) -> None:
    async with asyncio.TaskGroup() as group:
        if what != "bug":
            group.create_task(_raise(NotFound("expected a thing, got none")))
        if what != "one":
            group.create_task(_raise(ChainUnavailable("no answer") if what == "two" else KeyError("a bug")))


async def _raise(error: Exception) -> None:
    raise error


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(tandem, words)
    return result.exit_code, result.stdout, result.stderr


def test_settings_and_a_commands_own_words_may_be_mixed() -> None:
    assert run("say", "--port", "5", "hello", "--names", '["b", "c"]', "--loud")[1] == "5 ('b', 'c') hello True\n"


def test_a_file_is_named_by_config(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("port = 7\n")
    assert run("say", "hello", "--config", str(path))[1] == "7 ('a',) hello False\n"


def test_help_shows_every_setting_with_its_default() -> None:
    _, shown, _ = run("say", "--help")
    assert "--port VALUE" in shown
    assert "The port. [required]" in shown
    assert 'Its names. [["a"]]' in shown


def test_a_wrong_setting_is_one_line() -> None:
    code, _, shown = run("say", "hello", "--port", "x")
    assert code == 1
    assert shown.startswith("Error: configuration_error: flag --port: expected a valid integer")
    assert shown.count("\n") == 1


def test_an_unknown_flag_is_a_wrong_use() -> None:
    code, _, shown = run("say", "hello", "--prot", "5")
    assert code == 2
    assert "No such option '--prot'" in shown


@pytest.mark.parametrize(("what", "lines"), [("one", ["not_found"]), ("two", ["not_found", "chain_unavailable"])])
def test_errors_out_of_task_groups_are_a_line_each(what: str, lines: list[str]) -> None:
    code, _, shown = run("fail", what)
    assert code == 1
    assert [line.removeprefix("Error: ").split(":")[0] for line in shown.splitlines()] == lines


@pytest.mark.parametrize("what", ["bug", "both"])
def test_a_bug_is_not_hidden(what: str) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        CliRunner().invoke(tandem, ["fail", what], catch_exceptions=False)
    assert raised.group_contains(KeyError)


def test_an_error_that_comes_bare_is_one_line() -> None:
    @tandem.command("bare")
    def bare() -> None:
        raise ConfigurationError("expected more")

    assert run("bare") == (1, "", "Error: configuration_error: expected more\n")
