"""Units. Money is integer wei, a win probability is an integer threshold; neither is ever a float."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

UINT256_MAX = 2**256 - 1

_DECIMALS = {"wei": 0, "gwei": 9, "ether": 18}


def _integer(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,78}", value) else value


Uint256 = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, le=UINT256_MAX, strict=True),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,78}$"}),
]
"""An unsigned 256-bit integer; in JSON a decimal string, since JSON numbers lose digits beyond 2**53."""

Wei = Uint256
"""An amount of money."""

WinProb = Uint256
"""A ticket wins with probability `win_prob / 2**256`."""


def parse_amount(text: str) -> int:
    """`"1500"`, `"3 gwei"` or `"0.25 ether"` as integer wei, exactly; raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]+)(?:\.([0-9]+))?\s*(wei|gwei|ether)?\s*", text)
    if match is None:
        raise ValueError(f"expected an amount like '1500', '3 gwei' or '0.25 ether', got {text!r}")
    whole, fraction, unit = match[1], match[2] or "", match[3] or "wei"
    decimals = _DECIMALS[unit]
    if len(fraction) > decimals:
        raise ValueError(f"{text!r} has more decimals than {unit} has digits ({decimals})")
    return int(whole + fraction.ljust(decimals, "0"))


def _amount(value: object) -> object:
    return parse_amount(value) if isinstance(value, str) else value


Amount = Annotated[int, BeforeValidator(_amount), Field(ge=0, le=UINT256_MAX, strict=True)]
"""Wei in a setting: a whole number, or text with a unit such as `"3 gwei"` or `"0.25 ether"`."""


def format_amount(wei: int) -> str:
    """An amount for people, exact: in ether from a millionth of one, in gwei from one, else in wei."""
    unit = "ether" if wei >= 10**12 else "gwei" if wei >= 10**9 else "wei"
    whole, rest = divmod(wei, 10 ** _DECIMALS[unit])
    fraction = str(rest).zfill(_DECIMALS[unit]).rstrip("0") if rest else ""
    return f"{whole}.{fraction} {unit}" if fraction else f"{whole} {unit}"


def ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
