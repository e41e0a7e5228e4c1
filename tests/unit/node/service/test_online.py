"""Models that the orchestrator wants warm, and wants otherwise a moment later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from node.ports.execution import ModelFiles, ModelLoaded
from node.ports.transfer import Shelf
from node.service.link import Link
from node.service.online import Online
from tandem.clock import SystemClock
from tandem.protocol.messages import LoadModel
from tandem.protocol.models import ModelSettings
from tandem.protocol.signing import Address
from tests.fixtures.node import OFFER, ScriptedExecutors

DIGEST = f"sha256:{7:064x}"


class Counted(ScriptedExecutors):
    """Loads at once, and counts how often files are held."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.loads: asyncio.Queue[int] = asyncio.Queue()
        """The batches of what was loaded."""

    @asynccontextmanager
    async def fetch(self, shelf: Shelf, artifact_id: str, size: int, url: str) -> AsyncIterator[Path]:  # noqa: ARG002
        self.held += 1
        yield Path(artifact_id)
        self.held -= 1

    async def load(self, files: ModelFiles, settings: ModelSettings, *, pinned: bool = False) -> ModelLoaded:  # noqa: ARG002
        self.loads.put_nowait(settings.max_batch)
        return ModelLoaded("CPUExecutionProvider", 1)


class Uncounted:
    def begin(self, sender: Address, price: int) -> None: ...

    def served(self, sender: Address, price: int) -> None: ...

    def failed(self, sender: Address, price: int) -> None: ...


def wanted(max_batch: int) -> LoadModel:
    return LoadModel(
        model=DIGEST,
        artifact=DIGEST,
        size=1,
        url="http://o/a",
        inputs=(),
        cost_us=1,
        settings=ModelSettings(max_batch=max_batch),
    )


async def test_settings_that_change_again_and_again_hold_the_files_once() -> None:
    work = Counted()
    online = Online(work, work, Uncounted(), Link(), SystemClock(), prices=OFFER.prices, offer=lambda _: None)
    async with asyncio.timeout(10), online:
        online.load(wanted(1))
        assert await work.loads.get() == 1
        for max_batch in (2, 3, 4):
            online.load(wanted(max_batch))
        assert await work.loads.get() == 4
        assert work.held == 1
    assert work.held == 0
