"""The ways through a GPU, as data: there need be none here."""

from pathlib import Path
from typing import Any

import pytest

from node.adapters.ffmpeg import Ffmpeg, FfmpegTranscoder
from node.adapters.ffmpeg.arguments import Means, build
from node.adapters.ffmpeg.encoders import SOFTWARE, VideoEncoder, choose
from node.adapters.ffmpeg.hardware import Route, encoders_on, routes
from tandem.clock import SystemClock
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import ChildCrashed, ExecutionFailed
from tandem.protocol.ladder import RenditionRequest
from tests.fixtures.protocol import media, transcode_work

ALL = tuple(VideoEncoder)
ASKED = RenditionRequest(height=360)
WAYS = (Route.GPU, Route.NVENC, Route.NVDEC, Route.CPU)


def ways(
    encoders: tuple[str, ...] = ALL, decoders: tuple[str, ...] = ("h264", "hevc"), **asked: Any
) -> tuple[Route, ...]:
    return routes(transcode_work(media(**asked.pop("source", {})), ASKED, **asked), encoders, decoders, ())


def test_the_whole_gpu_comes_first_and_the_processor_last() -> None:
    assert ways() == WAYS
    assert ways(decoders=()) == (Route.NVENC, Route.CPU)
    assert ways(encoders=SOFTWARE) == (Route.NVDEC, Route.CPU)
    assert ways(encoders=SOFTWARE, decoders=()) == (Route.CPU,)


@pytest.mark.parametrize(
    "asked",
    [
        {"poster": {}},
        {"source": {"field_order": "top_first"}},
        {
            "source": {
                "codec": "hevc",
                "color": {"transfer": "smpte2084"},
                "bit_depth": 10,
                "pixel_format": "yuv420p10le",
            }
        },
    ],
    ids=["stills", "interlace", "tone mapping"],
)
def test_what_only_the_processor_filters_leaves_the_gpu(asked: dict[str, Any]) -> None:
    assert ways(**asked) == WAYS[1:]


@pytest.mark.parametrize(
    "source", [{"bit_depth": 10, "pixel_format": "yuv420p10le"}, {"codec": "vp9"}, {"pixel_format": "yuv422p"}]
)
def test_what_the_gpu_does_not_decode_is_decoded_by_the_processor(source: dict[str, Any]) -> None:
    assert ways(source=source) == (Route.NVENC, Route.CPU)


def test_a_way_that_failed_is_not_taken_again_for_such_sources() -> None:
    work = transcode_work(media(), ASKED)
    assert routes(work, ALL, ("h264",), {("h264", Route.GPU), ("hevc", Route.NVENC)}) == WAYS[1:]
    assert routes(work, ALL, ("h264",), {("h264", way) for way in WAYS}) == (Route.CPU,)


def test_each_way_has_its_encoders() -> None:
    (rendition,) = transcode_work(media(), ASKED).video
    assert choose(rendition, ALL) is VideoEncoder.NVENC
    assert choose(rendition, encoders_on(Route.NVDEC, ALL)) is VideoEncoder.X264
    assert choose(rendition.model_copy(update={"width": 96, "height": 54}), ALL) is VideoEncoder.X264


def arguments(route: Route, **source: Any) -> str:
    work = transcode_work(media(**source), ASKED, RenditionRequest(height=180))
    return " ".join(build(work, Means(Path("/in"), Path("/out"), encoders=ALL, route=route)))


def test_frames_never_leave_the_gpu() -> None:
    argv = arguments(Route.GPU, rotation=90)
    assert "-init_hw_device cuda=cu:0 -filter_hw_device cu" in argv
    assert "-hwaccel cuda -hwaccel_output_format cuda" in argv
    assert argv.count("scale_cuda=") == argv.count("-c:v h264_nvenc") == 2
    assert argv.count("transpose_cuda=dir=clock") == 2, "hardware frames are not turned by themselves"
    assert "hwupload" in argv
    assert "[0:V:0]scale" not in argv


def test_the_other_ways_scale_on_the_processor() -> None:
    assert "hwaccel" not in arguments(Route.NVENC)
    assert "-c:v h264_nvenc" in arguments(Route.NVENC)
    half = arguments(Route.NVDEC)
    assert "-hwaccel cuda" in half
    assert "hwaccel_output_format" not in half
    assert "-c:v libx264" in half
    assert "scale_cuda" not in half


def pretender(folder: Path, script: str) -> FfmpegTranscoder:
    """A node with a GPU, whose ffmpeg is a script."""
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    capability = Capability(video_encoders=ALL, gpu_decoders=("h264",))
    return FfmpegTranscoder(Ffmpeg(path, "0"), capability, sandbox=Sandbox.LIMITS, clock=SystemClock())


async def test_a_gpu_that_fails_costs_the_job_nothing_and_is_remembered(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "360p.mp4"
    fails = f'case "$*" in *cuda*|*nvenc*) echo "$*" >> {log}; echo "CUDA_ERROR_UNKNOWN" >&2; exit 1;; esac'
    runner = pretender(tmp_path, f"{fails}\necho done > {out}")
    work = transcode_work(media(), ASKED)
    for _ in range(2):
        assert await runner.transcode(work, out, None, tmp_path, lambda *_: None) == {"360p": out}
    assert len(log.read_text().splitlines()) == 3, "each way once, in both jobs together"


async def test_an_input_that_fails_on_the_gpu_fails_the_job(tmp_path: Path) -> None:
    runner = pretender(tmp_path, "echo 'Invalid data found when processing input' >&2; exit 1")
    with pytest.raises(ExecutionFailed, match="Invalid data"):
        await runner.transcode(transcode_work(media(), ASKED), tmp_path, None, tmp_path, lambda *_: None)


async def test_a_machine_at_fault_is_said_to_be(tmp_path: Path) -> None:
    runner = pretender(tmp_path, "echo 'Cannot allocate memory' >&2; exit 1")
    with pytest.raises(ChildCrashed):
        await runner.transcode(transcode_work(media(), ASKED), tmp_path, None, tmp_path, lambda *_: None)
