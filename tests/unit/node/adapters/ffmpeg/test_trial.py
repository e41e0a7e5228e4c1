"""Trying encoders out."""

import shutil
from pathlib import Path

import imageio_ffmpeg
import pytest

from node.adapters.ffmpeg import SOFTWARE, Ffmpeg, Trials, VideoEncoder, binary
from tandem.clock import SystemClock
from tandem.protocol.capacity import Sandbox

CLOCK = SystemClock()


@pytest.fixture
async def ffmpeg() -> Ffmpeg:
    return await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK)


@pytest.mark.parametrize("encoder", SOFTWARE)
async def test_the_processor_encodes(ffmpeg: Ffmpeg, encoder: VideoEncoder) -> None:
    assert await Trials(ffmpeg, sandbox=Sandbox.LIMITS, clock=CLOCK).encodes(encoder)


async def test_every_confinement_lets_it(ffmpeg: Ffmpeg, sandbox: Sandbox) -> None:
    trials = Trials(ffmpeg, sandbox=sandbox, clock=CLOCK)
    assert await trials.encodes(VideoEncoder.X264)
    assert await trials.audio_encoders() == ("aac", "libopus")
    assert await trials.filters() == ("tonemap",)


async def test_an_av1_encoder_that_ignores_forced_keyframes_is_none() -> None:
    found = shutil.which("ffmpeg")
    if found is None or (old := await binary.examine(Path(found), CLOCK)).version[:2] != "5.":
        pytest.skip("there is no ffmpeg 5 here, whose SVT-AV1 does so")
    assert not await Trials(old, sandbox=Sandbox.LIMITS, clock=CLOCK).encodes(VideoEncoder.SVT_AV1)


async def test_a_gpu_encodes_if_there_is_one(ffmpeg: Ffmpeg) -> None:
    works = await Trials(ffmpeg, sandbox=Sandbox.LIMITS, clock=CLOCK).encodes(VideoEncoder.NVENC)
    assert works is False or Path("/dev/nvidia0").exists()


async def test_speed_is_measured(ffmpeg: Ffmpeg) -> None:
    speed = await Trials(ffmpeg, sandbox=Sandbox.LIMITS, clock=CLOCK).encode_speed((VideoEncoder.X264,))
    assert speed > 100_000


async def test_what_does_not_run_can_do_nothing() -> None:
    trials = Trials(Ffmpeg(Path("/nonexistent/ffmpeg"), "0"), sandbox=Sandbox.LIMITS, clock=CLOCK)
    assert not await trials.encodes(VideoEncoder.X264)
    assert await trials.audio_encoders() == await trials.filters() == await trials.gpu_decoders() == ()
    assert await trials.encode_speed((VideoEncoder.X264,)) == 0
