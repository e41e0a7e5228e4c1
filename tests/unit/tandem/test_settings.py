from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem.protocol.errors import ConfigurationError
from tandem.settings import REQUIRED, Folder, every_setting, flag, load_settings, variable


class Codec(StrEnum):
    H264 = "h264"


class Prices(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    megapixel: Mapping[Codec, int]
    inference_second: int = Field(ge=0)


class Http(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    port: int = 80
    """The port."""
    host: str | None = None
    names: tuple[str, ...] = ()


class Chain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: str
    rpc: str = "http://chain"


class Settings(BaseSettings):
    """For these tests."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_TEST__", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    data: Folder = Path("var")
    verbose: bool = False
    http: Http = Http()
    chain: Chain
    prices: Prices = Field(default_factory=lambda: Prices(megapixel={Codec.H264: 7}, inference_second=8))

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.http.host == "nowhere":
            raise ValueError("http.host: expected somewhere")
        return self


CONTRACT = ("--chain.contract", "0x1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_defaults_hold_where_no_source_says_anything() -> None:
    settings = load_settings(Settings, None, CONTRACT)
    assert settings.data == Path.cwd() / "var"
    assert settings.http.port == 80
    assert settings.prices.megapixel == {Codec.H264: 7}


def test_flags_win_over_the_environment_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('verbose = true\n[http]\nport = 1\nhost = "file"\nnames = ["file"]\n')
    monkeypatch.setenv("TANDEM_TEST__HTTP__PORT", "2")
    monkeypatch.setenv("TANDEM_TEST__HTTP__HOST", "environment")
    settings = load_settings(Settings, config, [*CONTRACT, "--http.port", "3"])
    assert settings.http == Http(port=3, host="environment", names=("file",))
    assert settings.verbose


def test_a_section_that_is_said_in_part_keeps_the_rest_of_its_default() -> None:
    settings = load_settings(Settings, None, [*CONTRACT, "--prices.inference-second", "5"])
    assert settings.prices == Prices(megapixel={Codec.H264: 7}, inference_second=5)


def test_a_table_is_replaced_by_the_file_and_added_to_by_flags(config: Path) -> None:
    config.write_text("[prices]\nmegapixel = {}\n")
    assert load_settings(Settings, config, CONTRACT).prices.megapixel == {Codec.H264: 7}
    config.write_text("[prices]\nmegapixel.h264 = 1\n")
    flags = [*CONTRACT, "--prices.megapixel", '{"h264": 2}']
    assert load_settings(Settings, config, flags).prices.megapixel == {Codec.H264: 2}


def test_tables_and_lists_come_through_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TEST__PRICES__MEGAPIXEL__H264", "9")
    monkeypatch.setenv("TANDEM_TEST__HTTP__NAMES", '["a", "b"]')
    settings = load_settings(Settings, None, CONTRACT)
    assert settings.prices.megapixel == {Codec.H264: 9}
    assert settings.http.names == ("a", "b")
    assert load_settings(Settings, None, [*CONTRACT, "--http.names", '["c"]']).http.names == ("c",)


def test_null_is_no_value_and_an_empty_variable_says_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[http]\nhost = "file"\nport = 1\n')
    monkeypatch.setenv("TANDEM_TEST__HTTP__PORT", "")
    settings = load_settings(Settings, config, [*CONTRACT, "--http.host", "null"])
    assert settings.http == Http(port=1, host=None)
    monkeypatch.setenv("TANDEM_TEST__HTTP__HOST", "null")
    assert load_settings(Settings, config, CONTRACT).http.host is None


def test_a_section_of_which_all_is_commented_out_says_nothing(config: Path) -> None:
    config.write_text("[http]\n# port = 80\n[prices]\n")
    assert load_settings(Settings, config, CONTRACT) == load_settings(Settings, None, CONTRACT)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("nothing = 1", "nothing in {config}: expected the name of a setting"),
        ("[http]\nprot = 1", "http.prot in {config}: expected the name of a setting"),
        ("[http]\nport = 'x'", "http.port in {config}: expected a valid integer"),
        ("http = 1", "http in {config}: expected a valid dictionary"),
        ("[prices]\nmegapixel.h266 = 1", "prices.megapixel.h266 in {config}: expected 'h264'"),
        ("[prices]\ninference_second = -1", "prices.inference_second in {config}: expected greater"),
        ("http = ", "{config}: expected a TOML file"),
        ("http = '\udcff'", "{config}: expected a TOML file"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(config: Path, toml: str, said: str) -> None:
    config.write_text(toml, errors="surrogateescape")
    with pytest.raises(ConfigurationError) as raised:
        load_settings(Settings, config, CONTRACT)
    assert str(raised.value).startswith(said.format(config=config))


def test_a_file_that_is_not_there_is_named(config: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"settings\.toml: expected a TOML file with settings: .*No such file"):
        load_settings(Settings, config, CONTRACT)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TANDEM_TEST__NOTHING", "1", "TANDEM_TEST__NOTHING: expected the name of a setting"),
        ("TANDEM_TEST_HTTP__PORT", "1", "TANDEM_TEST_HTTP__PORT: expected the name of a setting"),
        ("TANDEM_TEST__DATA__DEEPER", "1", "TANDEM_TEST__DATA__DEEPER: expected the name of a setting"),
        ("TANDEM_TEST__HTTP__PROT", "1", "TANDEM_TEST__HTTP__PROT: expected the name of a setting"),
        ("TANDEM_TEST__HTTP__PORT", "x", "TANDEM_TEST__HTTP__PORT: expected a valid integer"),
        ("tandem_test__http__port", "x", "TANDEM_TEST__HTTP__PORT: expected a valid integer"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"environment variable {said}"):
        load_settings(Settings, None, CONTRACT)


def test_a_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TEST__HTTP", "{")
    with pytest.raises(ConfigurationError, match=r"TANDEM_TEST__….*expected JSON.*http"):
        load_settings(Settings, None, CONTRACT)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nothing", "1"], "unrecognized arguments: --nothing 1"),
        (["--http.por", "1"], "unrecognized arguments: --http.por 1"),
        (["stray"], "unrecognized arguments: stray"),
        (["--http.port"], "--http.port: expected one argument"),
        (["--http.port", "x"], "flag --http.port: expected a valid integer, unable to parse string as an integer, got"),
        (["--prices.inference-second", "-1"], "flag --prices.inference-second: expected greater than or equal to 0"),
        (["--http.host", "nowhere"], "http.host: expected somewhere"),
    ],
)
def test_what_is_wrong_in_flags_is_named(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(Settings, None, [*CONTRACT, *flags])
    assert said in str(raised.value)


def test_the_source_that_is_named_is_the_one_that_won(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[http]\nport = 'file'\n")
    monkeypatch.setenv("TANDEM_TEST__HTTP__PORT", "environment")
    with pytest.raises(ConfigurationError, match=r"environment variable TANDEM_TEST__HTTP__PORT.*got 'environment'"):
        load_settings(Settings, config, CONTRACT)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(Settings, None, ["--http.port", "x", "--verbose", "maybe"])
    problems = str(raised.value)
    assert "--http.port" in problems
    assert "--verbose" in problems
    assert "chain.contract: expected a value, got none; give it as --chain.contract or TANDEM_TEST__CHAIN__" in problems


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(Settings, None, [*CONTRACT, "--http.port", "x" * 1000])
    assert len(str(raised.value)) < 300


def test_every_setting_has_a_flag_a_variable_and_its_default() -> None:
    settings = {".".join(setting.path): setting for setting in every_setting(Settings)}
    assert list(settings) == [
        *("data", "verbose", "http.port", "http.host", "http.names", "chain.contract", "chain.rpc"),
        *("prices.megapixel", "prices.inference_second"),
    ]
    assert settings["http.port"].description == "The port."
    assert settings["chain.contract"].default is REQUIRED
    assert settings["prices.inference_second"].default == 8
    assert flag(settings["prices.inference_second"].path) == "--prices.inference-second"
    assert variable(Settings, settings["http.port"].path) == "TANDEM_TEST__HTTP__PORT"
