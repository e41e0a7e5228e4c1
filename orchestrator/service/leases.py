"""Takes attempts back from nodes that have gone silent."""

from orchestrator.core.lifecycle import Expired
from orchestrator.ports.store import Store
from orchestrator.service.lifecycle import Lifecycle
from tandem.clock import Clock
from tandem.protocol.errors import NotFound, StaleAttempt
from tandem.protocol.ids import job_of


class Leases:
    """`lease`: seconds that an attempt lives without a heartbeat."""

    def __init__(self, store: Store, lifecycle: Lifecycle, clock: Clock, lease: float) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._clock = clock
        self._lease = lease

    async def run(self) -> None:
        """Until cancelled. At first nobody is late: the silence was this process's own."""
        await self._store.extend_all_leases(self._lease)
        while True:
            await self._clock.sleep(self._lease / 4)
            await self.expire()

    async def expire(self) -> None:
        for ref in await self._store.expired():
            try:
                await self._lifecycle.apply(job_of(ref.task), Expired(ref))
            except (StaleAttempt, NotFound):  # its node spoke up meanwhile
                continue
