"""Deletes artifacts that nothing refers to any more: unused uploads, and renditions that were not accepted."""

from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.store import Store
from tandem.clock import Clock

_EVERY_SECONDS = 600.0


class Janitor:
    """`age`: seconds that an artifact is kept without a reference."""

    def __init__(self, store: Store, artifacts: ArtifactStore, clock: Clock, age: float) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._age = age

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sweep()
            await self._clock.sleep(_EVERY_SECONDS)

    async def sweep(self) -> None:
        """Rows first: bytes without a row are what a crash between the two, here or at an upload, may leave."""
        await self._store.delete_orphans(self._age)
        for artifact in await self._store.unlisted(await self._artifacts.aged(self._age)):
            await self._artifacts.delete(artifact, self._age)
