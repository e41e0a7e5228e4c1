"""Whole markets, one a test, each on a chain of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.market import CHEAP_GAS, Market, opened
from tests.fixtures.anvil import run_anvil


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with run_anvil(*CHEAP_GAS) as anvil, opened(tmp_path, anvil) as market:
        yield market
