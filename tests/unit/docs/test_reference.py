"""Whatever has a name that others rely on is documented, and what is generated is current."""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic_settings import BaseSettings, InitSettingsSource

from node.settings import NodeSettings
from orchestrator.settings import OrchestratorSettings
from scripts import reference
from tandem.protocol.errors import ERRORS_BY_CODE
from tandem.protocol.messages import NodeMessage, OrchestratorMessage
from tandem.settings import REQUIRED, every_setting

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == reference.PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("code", ERRORS_BY_CODE)
def test_every_error_has_a_meaning(code: str) -> None:
    row = next(line for line in (DOCS / "errors.md").read_text("utf-8").splitlines() if f"| `{code}` |" in line)
    assert len(row.split("|")[5].strip()) > 3


@pytest.mark.parametrize("message", [*get_args(NodeMessage), *get_args(OrchestratorMessage)])
def test_every_message_is_described(message: Any) -> None:
    name = message.model_fields["type"].default
    assert re.search(rf"^\| `{name}` \|.*\w", (DOCS / "protocol.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "cls"), [("node.toml", NodeSettings), ("orchestrator.toml", OrchestratorSettings)], ids=str
)
def test_the_example_file_shows_every_setting_with_its_default(name: str, cls: type[BaseSettings]) -> None:
    shown, required = uncommented(ROOT / "config" / name), dict[str, Any]()
    for setting in every_setting(cls):
        *above, last = setting.path
        table, needed = shown, required
        for part in above:
            table, needed = table[part], needed.setdefault(part, {})
        assert last in table, f"{'.'.join(setting.path)} is not in config/{name}"
        if setting.default is None:  # the example is of what might be there
            del table[last]
        if setting.default is REQUIRED:
            table[last] = needed[last] = "0x" + "11" * 20
    assert of(cls, shown) == of(cls, {section: said for section, said in required.items() if said})


def uncommented(path: Path) -> dict[str, Any]:
    return tomllib.loads(re.sub(r"^# (?=[a-z0-9_.]+ = )", "", path.read_text("utf-8"), flags=re.MULTILINE))


def of(cls: type[BaseSettings], said: dict[str, Any]) -> BaseSettings:
    return cls(_build_sources=((InitSettingsSource(cls, said),), {}))
