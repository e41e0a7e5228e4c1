import re

import pytest

from tandem.protocol import errors
from tandem.protocol.errors import (
    ERRORS_BY_CODE,
    FinalError,
    NoCapacity,
    RetryableError,
    TandemError,
    error_from_wire,
)


def test_every_error_is_in_the_picture_of_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"[├└]── (\w+)\s+(\w+)\b", errors.__doc__))
    branches = {RetryableError.__name__, FinalError.__name__}
    assert {name: code for name, code in drawn.items() if name not in branches} == {
        kind.__name__: code for code, kind in ERRORS_BY_CODE.items() if kind is not TandemError
    }


def test_what_may_be_retried_is_the_branch() -> None:
    for kind in ERRORS_BY_CODE.values():
        assert kind.retryable == issubclass(kind, RetryableError)
        assert 400 <= kind.status < 600


@pytest.mark.parametrize("retryable", [True, False])
def test_a_known_code_is_its_type_whatever_the_peer_claims(retryable: bool) -> None:
    error = error_from_wire("no_capacity", "full", retryable=retryable)
    assert isinstance(error, NoCapacity)
    assert error.detail == "full"


@pytest.mark.parametrize(("retryable", "branch"), [(True, RetryableError), (False, FinalError)])
def test_an_unknown_code_keeps_its_branch(retryable: bool, branch: type[TandemError]) -> None:
    assert type(error_from_wire("news", "?", retryable=retryable)) is branch
