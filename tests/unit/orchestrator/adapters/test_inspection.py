"""The Inspector port over real child processes."""

import asyncio
from pathlib import Path

from orchestrator.adapters.inspection import ChildInspector
from tandem.clock import SystemClock
from tandem.inspection.trial import Trial
from tandem.protocol.capacity import Sandbox
from tests.fixtures.media import CLIPS
from tests.fixtures.onnx_models import DIGITS, put


async def test_media_and_models_are_inspected(tmp_path: Path, sandbox: Sandbox) -> None:
    inspector = ChildInspector(sandbox=sandbox, clock=SystemClock())
    async with asyncio.TaskGroup() as tasks:
        media = tasks.create_task(inspector.media(CLIPS / "carphone_176x144_sar.mp4"))
        model = tasks.create_task(inspector.model(put(tmp_path, DIGITS.read_bytes()), Trial()))
    found = media.result().media
    assert found.video is not None
    assert await inspector.complexity(CLIPS / "carphone_176x144_sar.mp4", found) in range(10_000, 10**6)
    assert await inspector.complexity(DIGITS, found) is None
    assert model.result().inputs[0].name == "image"
