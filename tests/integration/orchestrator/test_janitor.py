"""What nothing refers to goes after a while, bytes and row; what is referred to or came lately stays."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.store import open_store
from orchestrator.core.records import JobChanges
from orchestrator.service.janitor import Janitor
from tandem.clock import SystemClock
from tandem.protocol.models import ModelInfo
from tandem.protocol.outputs import FileResult, TranscodeOutput
from tests.conformance.store.samples import accept, begin, decided, deliver, digest, put_model, ref_of, transcode
from tests.fixtures.clock import ManualClock

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

        await Janitor(store, disk, clock, AGE, DAY).sweep()
        assert await disk.aged(0) == sorted([model, fresh])
        assert unlisted not in await disk.aged(0)

        # The row outlives the sweep as long as it is young, and its bytes with it.
        await store.add_artifact(fresh, 5, "video/mp4")
        await Janitor(store, disk, clock, age=0, history=DAY).sweep()
        assert await disk.aged(0) == [model]


async def test_what_is_no_artifact_is_left_alone(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/db", SystemClock()) as store, open_artifacts(tmp_path / "a") as disk:
        strays = [tmp_path / "a" / "lost+found" / "#12", tmp_path / "a" / ".DS_Store"]
        for stray in strays:
            stray.parent.mkdir(exist_ok=True)
            stray.write_bytes(b"")
        await Janitor(store, disk, SystemClock(), age=0, history=DAY).sweep()
        assert all(stray.exists() for stray in strays)


async def test_what_a_job_let_go_of_goes_without_waiting_a_day(tmp_path: Path) -> None:
    clock = SystemClock()
    async with open_store(f"sqlite:///{tmp_path}/db", clock) as store, open_artifacts(tmp_path / "a") as disk:
        job = transcode(1)
        given, _ = await disk.write(once(b"source"), 10)
        made, _ = await disk.write(once(b"window"), 10)
        await store.add_artifact(digest(7), 6, "video/mp4")
        await store.add_artifact(made, 6, "video/mp4")
        await store.submit(job)
        output = TranscodeOutput(files=(FileResult(name="r8", artifact=made, size=6),))
        await decided(store, job, begin(ref_of(job)), deliver(ref_of(job), output), accept(ref_of(job)))
        janitor = Janitor(store, disk, clock, DAY, DAY)
        await decided(store, job, lambda snapshot, _now: JobChanges(job=snapshot.job, released=(made,)))
        await janitor.sweep()
        assert made in await disk.aged(0), "its bytes are young"

    later = ManualClock(start=clock.now() + 700)
    async with open_store(f"sqlite:///{tmp_path}/db", later) as store, open_artifacts(tmp_path / "a") as disk:
        for path in (tmp_path / "a").glob("??/*"):
            os.utime(path, (path.stat().st_mtime - 700,) * 2)
        await Janitor(store, disk, later, DAY, DAY).sweep()
        assert await disk.aged(0) == [given]
        await Janitor(store, disk, later, age=0, history=DAY, results=700).sweep()
        assert [digest(7) in await store.unlisted([digest(7)]), await disk.aged(0)] == [True, []]
