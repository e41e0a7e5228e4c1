"""The contract's committed ABI and bytecode, and its own errors in words."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple

from tandem.protocol.hashing import keccak

_ARTIFACT = json.loads(files("tandem.chain").joinpath("TicketBroker.json").read_text("utf-8"))

ABI: list[Any] = _ARTIFACT["abi"]
BYTECODE: str = _ARTIFACT["bytecode"]


def explain_revert(data: bytes) -> str:
    """`StillLocked(unlockAt=1700000000)` for the data of a revert; the hex where it is not one of the contract's."""
    entry = _errors().get(data[:4])
    if entry is None:
        return "0x" + data.hex() if data else "no reason"
    types = [collapse_if_tuple(argument) for argument in entry["inputs"]]
    names = [argument["name"] for argument in entry["inputs"]]
    try:
        values = decode(types, data[4:])
    except DecodingError:
        return "0x" + data.hex()
    return f"{entry['name']}({', '.join(f'{n}={v}' for n, v in zip(names, values, strict=True))})"


@cache
def _errors() -> dict[bytes, dict[str, Any]]:
    return {_selector(entry): entry for entry in ABI if entry["type"] == "error"}


def _selector(entry: dict[str, Any]) -> bytes:
    types = ",".join(collapse_if_tuple(argument) for argument in entry["inputs"])
    return keccak(f"{entry['name']}({types})".encode())[:4]
