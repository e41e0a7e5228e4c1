"""The contract's committed ABI and bytecode, and its own errors in words."""

import json
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple

from tandem.protocol.hashing import keccak
from tandem.protocol.units import format_amount

_ARTIFACT = json.loads(files("tandem.chain").joinpath("TicketBroker.json").read_text("utf-8"))

ABI: list[Any] = _ARTIFACT["abi"]
BYTECODE: str = _ARTIFACT["bytecode"]


_WORDS = {
    "UnlockPeriodZero": "an unlock period of 0 seconds protects nobody: give a longer one",
    "AmountZero": "the amount is 0: there is nothing to move",
    "AmountTooLarge": "{amount} is more than it can hold: give less",
    "ReserveTooSmall": "{wanted} of the reserve is wanted and {free} of it is free: add to it with `tandem chain fund "
    "--reserve`, ask for less, or lower another allocation and wait for the unlock period",
    "DepositTooSmall": "{wanted} of the deposit is wanted and it is {deposit}: ask for less, or for `all`",
    "UnlockUnderWay": "the unlock period has already begun, and ends at {unlockAt}: withdraw from then on, or lock the "
    "funds again with `tandem chain cancel-unlock`",
    "NotUnlocking": "the funds are locked: begin with `tandem chain unlock`, and withdraw after the unlock period",
    "StillLocked": "the funds are locked until {unlockAt}: withdraw then",
    "AddressZero": "the zero address is nobody's: give another",
    "SignerNotAuthorised": "{signer} may not sign for this account, or was revoked before: correct the address, or "
    "authorise it with `tandem chain authorise-signer`",
    "GasTooLow": "{gasLeft} gas were left where {needed} are needed: send it with more gas",
    "TransferFailed": "{to} did not take {amount}: name another receiver",
}
_LATEST = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch."""
_AMOUNTS = frozenset({"amount", "free", "wanted", "deposit"})
_TIMES = frozenset({"unlockAt"})


def explain_revert(data: bytes) -> str:
    """What the data of a revert means, what to do, and the error's name; hex where it is not one of the contract's."""
    entry = _errors().get(data[:4])
    if entry is None:
        return "0x" + data.hex() if data else "no reason"
    types = [collapse_if_tuple(argument) for argument in entry["inputs"]]
    names = [argument["name"] for argument in entry["inputs"]]
    try:
        values = decode(types, data[4:])
    except DecodingError:
        return "0x" + data.hex()
    shown = {name: _shown(name, value) for name, value in zip(names, values, strict=True)}
    return f"{_WORDS[entry['name']].format_map(shown)} ({entry['name']})"


def _shown(name: str, value: Any) -> str:
    if name in _AMOUNTS:
        return format_amount(value)
    if name in _TIMES:
        return datetime.fromtimestamp(min(value, _LATEST), UTC).isoformat(timespec="seconds")
    return str(value)


@cache
def _errors() -> dict[bytes, dict[str, Any]]:
    return {_selector(entry): entry for entry in ABI if entry["type"] == "error"}


def _selector(entry: dict[str, Any]) -> bytes:
    types = ",".join(collapse_if_tuple(argument) for argument in entry["inputs"])
    return keccak(f"{entry['name']}({types})".encode())[:4]
