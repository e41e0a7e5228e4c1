"""The stores of artifacts under test. Another one is one more parameter of `artifacts`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.ports.artifacts import ArtifactStore


@pytest.fixture(params=["disk"])
async def artifacts(tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    async with open_artifacts(tmp_path / "artifacts") as opened:
        yield opened
