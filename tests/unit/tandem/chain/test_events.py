import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tandem.chain import events
from tandem.chain.artifact import ABI

INTERFACE = Path(__file__).parents[4] / "contracts" / "src" / "ITicketBroker.sol"


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


@pytest.mark.parametrize("entry", [entry for entry in ABI if entry["type"] == "event"], ids=lambda entry: entry["name"])
def test_every_event_has_its_type(entry: dict[str, Any]) -> None:
    found = getattr(events, entry["name"])
    assert found in events.BrokerEvent.__args__
    assert [field.name for field in fields(found)] == ["at", *(snake(argument["name"]) for argument in entry["inputs"])]


def test_refusals_are_numbered_as_in_the_contract() -> None:
    body = re.search(r"enum Refusal \{(.*?)\}", INTERFACE.read_text(), re.DOTALL)
    assert body is not None
    names = [snake(name.strip()).upper() for name in body[1].split(",")]
    assert names == [refusal.name for refusal in events.Refusal]
