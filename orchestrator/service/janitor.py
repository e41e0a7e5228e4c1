"""Deletes what nobody needs any more: unused uploads, renditions that were not accepted, what jobs let go of, and
what was told, written and made of jobs that ended long ago.
"""

from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.store import Store
from tandem.clock import Clock

_EVERY_SECONDS = 600.0
_RELEASED_SECONDS = 600.0
"""The age of what a job let go of. The same bytes may be on their way in again, and without a row for a moment."""


class Janitor:
    """`age`: seconds that an artifact is kept without a reference; `history`: that a job's traces outlive its end.

    `results`: that its files do; None: for good.
    """

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        clock: Clock,
        age: float,
        history: float,
        results: float | None = None,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._age = age
        self._history = history
        self._results = results

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sweep()
            await self._clock.sleep(_EVERY_SECONDS)

    async def sweep(self) -> None:
        """Rows first: bytes without a row are what a crash between the two, here or at an upload, may leave."""
        while self._results is not None and await self._store.let_go(self._results):
            pass
        young = min(self._age, _RELEASED_SECONDS)
        for artifact in await self._store.delete_orphans(self._age, young):
            await self._artifacts.delete(artifact, young)
        for artifact in await self._store.unlisted(await self._artifacts.aged(self._age)):
            await self._artifacts.delete(artifact, self._age)
        while await self._store.prune(self._history):
            pass
