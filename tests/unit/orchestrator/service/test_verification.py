"""Judging a result whose file goes while it is judged."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.lifecycle import Accepted, Assigned, Event, Finished
from orchestrator.core.records import JobChanges
from orchestrator.ports.inspection import Inspected, ModelFacts
from orchestrator.service.events import JobEvents
from orchestrator.service.lifecycle import Bells, Lifecycle
from orchestrator.service.verification import Verifier
from tandem.inspection.compared import Comparison
from tandem.inspection.trial import Trial
from tandem.protocol.jobs import AttemptState
from tandem.protocol.media import MediaInfo, SoundCount, Source
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.fixtures.online import unchecked
from tests.fixtures.protocol import NODE, media
from tests.unit.orchestrator.service.conftest import Market
from tests.unit.orchestrator.service.test_scheduling import submit

HEARD = SoundCount(packets=94, broken=0)


class Probe:
    """Finds every rendition to be what was asked."""

    async def media(self, path: Path) -> Source:
        raise NotImplementedError

    async def results(self, paths: Sequence[Path], compared: Comparison | None) -> list[Inspected | str]:  # noqa: ARG002
        sizes = (map(int, path.read_text().split("x")) for path in paths)
        return [Inspected(Source(media=media(*size), keyframes=(0,), sounds=(HEARD,))) for size in sizes]

    async def complexity(self, path: Path, media: MediaInfo) -> int | None:
        raise NotImplementedError

    async def model(self, path: Path, trial: Trial) -> ModelFacts:
        raise NotImplementedError


class Forgetful(Lifecycle):
    """The janitor comes by between verdict and write."""

    async def apply(self, job: str, event: Event) -> JobChanges:
        if isinstance(event, Accepted):
            await self._store.delete_orphans(0)
        return await super().apply(job, event)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_rendition_that_is_deleted_meanwhile_is_asked_for_again(market: Market, tmp_path: Path) -> None:
    store, node = market.store, NODE.address
    lifecycle = Forgetful(store, market.nodes, JobEvents(), market.tracker, RetryPolicy(), Bells())
    async with open_artifacts(tmp_path / "artifacts") as disk:
        job = await submit(market, 1, duration_us=media().duration_us)
        (attempt,) = (await lifecycle.apply(job, Assigned(f"{job}.0", node, 5, 30))).attempts
        ladder = (await store.job(job)).tasks[0].work.model_dump()["video"]
        renditions = []
        for step in ladder:
            artifact, size = await disk.write(once(f"{step['width']}x{step['height']}".encode()), 100)
            await store.add_artifact(artifact, size, "video/mp4")
            renditions.append(FileResult(name=step["name"], artifact=artifact, size=size))
        output = TranscodeOutput(files=tuple(renditions))
        await lifecycle.apply(job, Finished(attempt.ref, node, output))

        verifier = Verifier(store, disk, Probe(), unchecked, lifecycle, market.clock)
        await verifier.judge(attempt.ref)
    (ended,) = (await store.job(job)).attempts
    assert ended.state is AttemptState.REJECTED
    assert ended.failure is not None
    assert "expected artifacts that are stored" in ended.failure.detail
