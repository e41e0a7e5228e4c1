from typing import Any

import pytest
from eth_abi.abi import encode

from tandem.chain.artifact import ABI, explain_revert
from tandem.protocol.hashing import keccak


@pytest.mark.parametrize("entry", [entry for entry in ABI if entry["type"] == "error"], ids=lambda entry: entry["name"])
def test_every_error_of_the_contract_is_in_words(entry: dict[str, Any]) -> None:
    types = [argument["type"] for argument in entry["inputs"]]
    values = ["0x" + "22" * 20 if kind == "address" else 7 for kind in types]
    selector = keccak(f"{entry['name']}({','.join(types)})".encode())[:4]
    explained = explain_revert(selector + encode(types, values))
    assert explained.endswith(f" ({entry['name']})")
    shown = {"address": "0x" + "22" * 20, "uint64": "1970-01-01T00:00:07+00:00", "uint256": "7 "}
    assert all(shown[kind] in explained for kind in types)


def test_other_reverts_are_shown_as_they_are() -> None:
    assert explain_revert(bytes.fromhex("deadbeef")) == "0xdeadbeef"
    assert explain_revert(b"") == "no reason"
