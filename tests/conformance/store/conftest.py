"""The stores under test. Another database is one more parameter of `open_again`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from orchestrator.adapters.store import open_store
from orchestrator.ports.store import Store
from tests.fixtures.clock import ManualClock

Open = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite"])
def url(tmp_path: Path) -> str:
    """An empty database."""
    return f"sqlite:///{tmp_path / 'tandem.db'}"


@pytest.fixture
def open_again(url: str, clock: ManualClock) -> Open:
    """Opens the same database, each time as a process would that starts."""
    return lambda: open_store(url, clock)


@pytest.fixture
async def store(open_again: Open) -> AsyncIterator[Store]:
    async with open_again() as opened:
        yield opened
