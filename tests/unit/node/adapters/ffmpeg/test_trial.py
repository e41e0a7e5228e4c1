"""Trying encoders out."""

from pathlib import Path

import imageio_ffmpeg
import pytest

from node.adapters.ffmpeg import Ffmpeg, VideoEncoder, binary, measure_encode_speed, trial_encode
from tandem.clock import SystemClock
from tandem.protocol.capacity import Sandbox

CLOCK = SystemClock()


@pytest.fixture
async def ffmpeg() -> Ffmpeg:
    return await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK)


async def test_the_processor_encodes(ffmpeg: Ffmpeg, sandbox: Sandbox) -> None:
    assert await trial_encode(ffmpeg, VideoEncoder.X264, sandbox=sandbox, clock=CLOCK)


async def test_a_gpu_encodes_if_there_is_one(ffmpeg: Ffmpeg) -> None:
    works = await trial_encode(ffmpeg, VideoEncoder.NVENC, sandbox=Sandbox.LIMITS, clock=CLOCK)
    assert works is False or Path("/dev/nvidia0").exists()


async def test_speed_is_measured(ffmpeg: Ffmpeg) -> None:
    speed = await measure_encode_speed(ffmpeg, VideoEncoder.X264, sandbox=Sandbox.LIMITS, clock=CLOCK)
    assert speed > 100_000


async def test_what_does_not_run_has_no_speed() -> None:
    missing = Ffmpeg(Path("/nonexistent/ffmpeg"), "0")
    assert not await trial_encode(missing, VideoEncoder.X264, sandbox=Sandbox.LIMITS, clock=CLOCK)
    assert await measure_encode_speed(missing, VideoEncoder.X264, sandbox=Sandbox.LIMITS, clock=CLOCK) == 0
