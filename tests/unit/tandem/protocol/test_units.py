import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.units import UINT256_MAX, Wei, ceil_div, format_amount, parse_amount

WEI: TypeAdapter[int] = TypeAdapter(Wei)


@given(st.integers(0, 10**30))
def test_amounts_are_written_and_read_exactly(wei: int) -> None:
    assert parse_amount(format_amount(wei)) == wei


@pytest.mark.parametrize(
    ("text", "wei"),
    [("1500", 1500), ("3 gwei", 3 * 10**9), ("0.25 ether", 25 * 10**16), (" 1.5gwei ", 15 * 10**8), ("0", 0)],
)
def test_amounts_for_people(text: str, wei: int) -> None:
    assert parse_amount(text) == wei


@pytest.mark.parametrize("text", ["", "1.5", "-1", "1e18", "1 eth", ".5 ether", "1.0000000001 gwei", "1 2", "٣"])
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an amount|more decimals"):
        parse_amount(text)


@given(st.integers(0, UINT256_MAX))
def test_wei_travel_as_decimal_strings(wei: int) -> None:
    assert WEI.dump_json(wei) == f'"{wei}"'.encode()
    assert WEI.validate_json(WEI.dump_json(wei)) == wei
    assert WEI.validate_python(wei) == wei


@pytest.mark.parametrize("value", ["-1", str(UINT256_MAX + 1), "1.0", "0x10", "", "1_000", " 1", "1\n"])
def test_wei_are_unsigned_256_bit_integers(value: str) -> None:
    with pytest.raises(ValidationError):
        WEI.validate_python(value)


@pytest.mark.parametrize("value", [1.0, True, None, -1, UINT256_MAX + 1])
def test_wei_are_never_floats(value: object) -> None:
    with pytest.raises(ValidationError):
        WEI.validate_python(value)


@given(st.integers(0, 10**40), st.integers(1, 10**20))
def test_ceil_div_rounds_up(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator
