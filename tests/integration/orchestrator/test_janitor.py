"""What nothing refers to goes after a while, bytes and row; what is referred to or came lately stays."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.store import open_store
from orchestrator.service.janitor import Janitor
from tandem.clock import SystemClock
from tandem.protocol.models import ModelInfo
from tests.conformance.store.samples import put_model

AGE = 1000.0
DAY = 86_400


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_sweep(tmp_path: Path) -> None:
    clock = SystemClock()
    async with open_store(f"sqlite:///{tmp_path}/db", clock) as store, open_artifacts(tmp_path / "artifacts") as disk:
        model, _ = await disk.write(once(b"model"), 10)
        unlisted, _ = await disk.write(once(b"left by a crash"), 20)
        fresh, _ = await disk.write(once(b"fresh"), 10)
        for path in (tmp_path / "artifacts").glob("??/*"):
            if path.name != fresh.removeprefix("sha256:"):
                os.utime(path, (clock.now() - DAY, clock.now() - DAY))
        await store.add_artifact(model, 5, "application/octet-stream")
        facts = {"name": "m", "version": "1", "artifact": model, "size": 5, "inputs": (), "outputs": ()}
        await put_model(store, ModelInfo(**facts, cost_us=1, memory=1))

        await Janitor(store, disk, clock, AGE).sweep()
        assert await disk.aged(0) == sorted([model, fresh])
        assert unlisted not in await disk.aged(0)

        # The row outlives the sweep as long as it is young, and its bytes with it.
        await store.add_artifact(fresh, 5, "video/mp4")
        await Janitor(store, disk, clock, age=0).sweep()
        assert await disk.aged(0) == [model]


async def test_what_is_no_artifact_is_left_alone(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/db", SystemClock()) as store, open_artifacts(tmp_path / "a") as disk:
        strays = [tmp_path / "a" / "lost+found" / "#12", tmp_path / "a" / ".DS_Store"]
        for stray in strays:
            stray.parent.mkdir(exist_ok=True)
            stray.write_bytes(b"")
        await Janitor(store, disk, SystemClock(), age=0).sweep()
        assert all(stray.exists() for stray in strays)
