"""Problems, there and back."""

import pytest

from tandem.protocol.api import Problem
from tandem.protocol.errors import ERRORS_BY_CODE, FinalError, RetryableError


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE))
def test_every_error_survives_the_wire(code: str) -> None:
    problem = Problem.model_validate_json(Problem.of(code, "because").model_dump_json())
    assert type(problem.error()) is ERRORS_BY_CODE[code]
    assert problem.error().detail == "because"


@pytest.mark.parametrize(("status", "branch"), [(418, FinalError), (503, RetryableError)])
def test_of_an_unknown_code_the_status_tells_the_branch(status: int, branch: type[Exception]) -> None:
    assert type(Problem.of("new_one", "because", status).error()) is branch
