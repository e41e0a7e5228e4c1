from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.adapters.store.engine import Database, open_database
from orchestrator.adapters.store.migrate import upgrade
from tests.fixtures.clock import ManualClock


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tandem.db'}"


@pytest.fixture
async def database(url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """With the tables of this version."""
    async with open_database(url, clock) as opened:
        await opened.write(upgrade)
        yield opened
