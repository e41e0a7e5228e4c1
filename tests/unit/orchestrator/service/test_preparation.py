"""How preparations go on after what went wrong."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.batches import ChildBatches
from orchestrator.core.backlog import BacklogPolicy
from orchestrator.core.blame import RetryPolicy
from orchestrator.core.delivery import Answer
from orchestrator.core.records import Failure, PreparationRecord
from orchestrator.ports.inspection import Inspected, ModelFacts
from orchestrator.ports.visiting import Fetched, Part
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.batches import BatchFiles
from orchestrator.service.events import JobEvents, StateChanged
from orchestrator.service.lifecycle import Bells, Lifecycle
from orchestrator.service.planning import Planning
from orchestrator.service.preparation import Preparations
from orchestrator.service.sources import Sources
from tandem.inspection.compared import Comparison
from tandem.inspection.trial import Trial
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import TandemError, Unavailable, UrlUnavailable
from tandem.protocol.jobs import JobState
from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.models import ModelInfo
from tandem.waiting import Bell
from tests.conformance.store.samples import MEDIA, cancel, unprepared
from tests.fixtures.api import PRICES
from tests.unit.orchestrator.service.conftest import Market


@dataclass
class Elsewhere:
    """A visitor and an inspector that fail on cue."""

    errors: list[TandemError | ValidationError] = field(default_factory=list)
    fetched: int = 0
    probed: int = 0

    def check(self, url: str) -> None:
        raise AssertionError(url)

    @asynccontextmanager
    async def fetch(self, url: str, after: Part | None = None) -> AsyncIterator[Fetched]:  # noqa: ARG002
        self.fetched += 1
        yield Fetched(self._chunks(), None, "video/mp4")

    async def put(self, url: str, chunks: AsyncIterator[bytes], size: int, media_type: str) -> None:
        raise AssertionError(url, chunks, size, media_type)

    async def post_form(self, url: str, fields: Mapping[str, str], chunks: AsyncIterator[bytes], size: int) -> None:
        raise AssertionError(url, fields, chunks, size)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        raise AssertionError(url, body, headers, seconds)

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"video"
        if self.errors and not self._of_the_probe:
            raise self.errors.pop(0)

    @property
    def _of_the_probe(self) -> bool:
        return type(self.errors[0]) in {Unavailable, ValidationError}

    async def results(self, paths: Sequence[Path], compared: Comparison | None) -> list[Inspected | str]:
        raise NotImplementedError

    async def media(self, path: Path) -> Source:  # noqa: ARG002
        self.probed += 1
        if self.errors:
            raise self.errors.pop(0)
        return Source(media=MEDIA)

    async def complexity(self, path: Path, media: MediaInfo) -> int | None:  # noqa: ARG002
        return 100_000

    async def model(self, path: Path, trial: Trial) -> ModelFacts:
        raise AssertionError(path, trial)

    async def find_model(self, owner: str, name: str, version: str | None) -> ModelInfo:
        raise AssertionError(owner, name, version)


@dataclass(frozen=True)
class Bench:
    market: Market
    elsewhere: Elsewhere
    events: JobEvents
    preparations: Preparations

    async def attempt(self) -> PreparationRecord | None:
        """Prepares the one job, and how it then stands if it still is being prepared."""
        (record,) = await self.market.store.preparations()
        await self.preparations.backlog.attend(record)
        return next(iter(await self.market.store.preparations()), None)

    async def state(self) -> JobState:
        return (await self.market.store.job(JOB.job.id)).job.state


JOB = unprepared(1)
POLICY = BacklogPolicy(tries=3, backoff=4.0)
BEGUN = PreparationRecord(JOB.job.id, "local")
SOURCE = "sha256:" + hashlib.sha256(b"video").hexdigest()


@pytest.fixture
async def bench(market: Market, tmp_path: Path) -> AsyncIterator[Bench]:
    elsewhere, events, store = Elsewhere(), JobEvents(), market.store
    lifecycle = Lifecycle(store, market.nodes, events, market.tracker, RetryPolicy(), Bells())
    await store.submit(JOB)
    async with open_artifacts(tmp_path / "artifacts") as content:
        rooms = ChildBatches(tmp_path / "batches", sandbox=Sandbox.LIMITS, clock=market.clock)
        batches = BatchFiles(store, content, rooms)
        planning = Planning(store, content, elsewhere, batches, PRICES, list, elsewhere.find_model)
        sources = Sources(Artifacts(store, content, 100), elsewhere, events, market.clock)
        bell = Bell(market.clock)
        yield Bench(
            market,
            elsewhere,
            events,
            Preparations(store, planning, sources, events, lifecycle.apply, bell, POLICY),
        )


async def test_what_was_fetched_is_not_fetched_again(bench: Bench) -> None:
    bench.elsewhere.errors = [Unavailable("the probe did not run")]
    waiting = replace(BEGUN, tries=1, not_before=bench.market.clock.now() + 4, source=SOURCE)
    assert await bench.attempt() == waiting
    assert await bench.attempt() is None
    assert await bench.state() is JobState.QUEUED
    assert (bench.elsewhere.fetched, bench.elsewhere.probed) == (1, 2)


async def test_what_does_not_pass_fails_the_job(bench: Bench) -> None:
    bench.elsewhere.errors = [UrlUnavailable("HTTP 503")] * 3
    left = [await bench.attempt() for _ in range(3)]
    assert [record and record.tries for record in left] == [1, 2, None]
    job = (await bench.market.store.job(JOB.job.id)).job
    assert job.failure == Failure("url_unavailable", "HTTP 503", retryable=True)


async def test_a_plan_that_breaks_bounds_fails_its_job_alone(bench: Bench) -> None:
    with pytest.raises(ValidationError) as broken:
        Source.model_validate({})
    bench.elsewhere.errors = [broken.value]
    assert await bench.attempt() is None
    failure = (await bench.market.store.job(JOB.job.id)).job.failure
    said = "expected a job within bounds, got media: Field required"
    assert failure == Failure("invalid_request", said, retryable=False)


async def test_a_job_that_is_over_is_left_alone(bench: Bench) -> None:
    (record,) = await bench.market.store.preparations()
    await bench.market.store.decide([JOB.job.id], cancel)
    await bench.preparations.backlog.attend(record)
    assert bench.elsewhere.fetched == 0


async def test_a_job_that_backs_off_is_taken_up_at_its_time(bench: Bench) -> None:
    clock = bench.market.clock
    await bench.market.store.save_preparation(replace(BEGUN, tries=1, not_before=clock.now() + 30))
    with bench.events.subscribe(JOB.job.id) as news:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(bench.preparations.run())
            while not clock.sleepers:  # noqa: ASYNC110 - until it waits
                await asyncio.sleep(0)
            assert bench.elsewhere.fetched == 0
            clock.advance(30)
            while await news.next() != StateChanged(JobState.QUEUED):
                pass
            running.cancel()
    assert bench.elsewhere.fetched == 1
