"""What SIGKILL leaves behind."""

import asyncio
import signal
import sys
from collections import Counter

from tandem.protocol.jobs import JobState
from tests.conformance.store.conftest import Open
from tests.conformance.store.samples import LABELS, PIXELS


async def test_what_was_told_is_there_and_nothing_is_there_by_half(open_again: Open, url: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.store.submitting", url, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told = [(await child.stdout.readline()).decode().strip() for _ in range(20)]
    child.kill()
    rest, _ = await child.communicate()
    told += rest.decode().split()
    assert child.returncode == -signal.SIGKILL
    async with open_again() as store:
        found = {snapshot.job.id: snapshot for snapshot in (await store.jobs(None, limit=100_000)).jobs}
        assert set(told) <= set(found)
        for job in told:
            assert found[job].job.state is JobState.RUNNING
        events = Counter(each.job for each in (await store.deliveries("local", limit=100_000)).deliveries)
        for snapshot in found.values():
            assert events[snapshot.job.id] == 1 + (snapshot.job.state is JobState.RUNNING)
            assert len(snapshot.tasks) == 3
            assert len(snapshot.attempts) == (snapshot.job.state is JobState.RUNNING)
            assert await store.inputs(snapshot.tasks[0].id) == (PIXELS, LABELS)
