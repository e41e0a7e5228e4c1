import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from node.settings import NodeSettings
from tandem.protocol.errors import ConfigurationError
from tandem.settings import every_setting, load_settings

FILE = Path(__file__).parents[3] / "config" / "node.toml"
CONTRACT = "0x" + "ab" * 20
REQUIRED = ["--chain.contract", CONTRACT]


def shown() -> dict[str, Any]:
    """The file with every default uncommented."""
    lines = [re.sub(r"^# (?=[a-z0-9_]+ = )", "", line) for line in FILE.read_text("utf-8").splitlines()]
    return tomllib.loads("\n".join(lines))


def test_the_file_shows_every_setting_and_no_other() -> None:
    known = {setting.path for setting in every_setting(NodeSettings)}

    def names(table: dict[str, Any], *above: str) -> set[tuple[str, ...]]:
        paths = {(*above, key): value for key, value in table.items()}
        sections = [path for path, value in paths.items() if isinstance(value, dict) and path not in known]
        return paths.keys() - set(sections) | {name for path in sections for name in names(paths[path], *path)}

    assert names(shown()) == known


def test_the_file_shows_the_defaults() -> None:
    example = shown()
    for key in ("sender", "contract"):
        for section in example.values():
            if isinstance(section, dict):
                section.pop(key, None)
    for key in ("cpu", "memory"):
        del example["capacity"][key]
    for key in ("workers", "memory", "vram", "metrics_port"):
        del example["inference"][key]
    del example["key"]
    example["chain"]["contract"] = CONTRACT
    assert NodeSettings.model_validate(example) == load_settings(NodeSettings, None, REQUIRED)


def test_the_file_itself_is_valid() -> None:
    load_settings(NodeSettings, FILE, REQUIRED)


def test_every_setting_is_described() -> None:
    assert not [setting.path for setting in every_setting(NodeSettings) if not setting.description]


def test_the_contract_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"chain\.contract"):
        load_settings(NodeSettings, None, [])


def test_amounts_have_units() -> None:
    settings = load_settings(NodeSettings, None, [*REQUIRED, "--prices.inference-second", "3 gwei"])
    assert settings.prices.inference_second == 3 * 10**9


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--prices.inference-second", "3 pounds"),
        ("--orchestrator.url", "ws://orchestrator"),
        ("--orchestrator.url", "http://orchestrator/path"),
        ("--tickets.odds", "0"),
        ("--tickets.max-unpaid", "5"),
        ("--capacity.cpu", "-1"),
        ("--chain.contract", "0x12"),
    ],
)
def test_a_wrong_setting_is_named(flag: str, value: str) -> None:
    name = flag.removeprefix("--").replace("-", ".")
    with pytest.raises(ConfigurationError, match=name.replace(".", ".")):
        load_settings(NodeSettings, None, [*REQUIRED, flag, value])


def test_key_and_password_are_in_the_data_folder_by_default() -> None:
    settings = load_settings(NodeSettings, None, [*REQUIRED, "--data", "/srv/node"])
    assert (settings.keystore, settings.password_file) == (Path("/srv/node/key.json"), Path("/srv/node/key.password"))
