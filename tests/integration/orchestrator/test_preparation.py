"""Preparations over processes that die."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.adapters.store import open_store
from tandem.clock import SystemClock
from tandem.protocol.jobs import JobState
from tests.conformance.store.samples import unprepared
from tests.fixtures.origin import Origin, answer, run_origin


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with run_origin() as running:
        yield running


@asynccontextmanager
async def preparing(folder: Path) -> AsyncIterator[asyncio.StreamReader]:
    """A process that prepares, and its output; killed at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.orchestrator.preparing", folder, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        assert await child.stdout.readline() == b"ready\n"
        yield child.stdout
    finally:
        child.kill()
        assert await child.wait() == -signal.SIGKILL


async def test_a_fetch_that_a_sigkill_ends_is_begun_again(tmp_path: Path, origin: Origin, clip: bytes) -> None:
    asked = unprepared(1, origin.url("/"))
    async with open_store(f"sqlite:///{tmp_path / 'tandem.db'}", SystemClock()) as store:
        await store.submit(asked)
    origin.pages["/"] = origin.endless(clip[:100])
    async with preparing(tmp_path):
        await origin.begun.wait()
    origin.pages["/"] = answer(clip)
    async with preparing(tmp_path) as output:
        assert (await output.readline()).decode().strip() == asked.job.id
    async with open_store(f"sqlite:///{tmp_path / 'tandem.db'}", SystemClock()) as store:
        snapshot = await store.job(asked.job.id)
        assert (snapshot.job.state, len(snapshot.tasks)) == (JobState.QUEUED, 1)
        assert await store.preparations() == []
    assert len(origin.heads) == 2
