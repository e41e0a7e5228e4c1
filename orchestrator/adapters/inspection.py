"""Inspection by child processes, a bounded number at a time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from orchestrator.ports.inspection import Inspected, ModelFacts
from tandem.clock import Clock
from tandem.inspection.calls import inspect_media, inspect_model, inspect_results, measure_complexity
from tandem.inspection.compared import Comparison
from tandem.inspection.trial import Trial
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import UnreadableMedia
from tandem.protocol.media import MediaInfo, Source


class ChildInspector:
    """The Inspector port. What comes while `concurrency` children run waits its turn.

    Results have turns of their own, so that no nodes wait for what strangers upload.
    """

    def __init__(self, *, sandbox: Sandbox, clock: Clock, concurrency: int = 2) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._turns, self._results_turns = asyncio.Semaphore(concurrency), asyncio.Semaphore(concurrency)

    async def media(self, path: Path) -> Source:
        async with self._turns:
            return await inspect_media(path, sandbox=self._sandbox, clock=self._clock)

    async def results(self, paths: Sequence[Path], compared: Comparison | None) -> list[Inspected | str]:
        async with self._results_turns:
            found = await inspect_results(paths, compared, sandbox=self._sandbox, clock=self._clock)
        return [each.refused if each.source is None else Inspected(each.source, each.likeness) for each in found]

    async def complexity(self, path: Path, media: MediaInfo) -> int | None:
        async with self._turns:
            try:
                report = await measure_complexity(path, media.duration_us, sandbox=self._sandbox, clock=self._clock)
            except UnreadableMedia:  # a nicety, for which no job fails
                return None
        return report.microbits_a_pixel

    async def model(self, path: Path, trial: Trial) -> ModelFacts:
        async with self._turns:
            report = await inspect_model(path, trial, sandbox=self._sandbox, clock=self._clock)
        return ModelFacts(**dict(report))
