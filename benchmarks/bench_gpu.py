"""What a GPU is worth to a node: decoding on it, and decoding beside inference. Without one it says so.

First, sources of 1080p and 2160p into three renditions by the executor's own command lines: the best way that the card
has (`full GPU`, or decoding there and encoding on the processor where it has no NVENC, as H100, H200 and A100) against
the processor alone. Then a fixed amount of decoding and a fixed amount of inference, each alone and both at once: were
they not in each other's way, both at once would take as long as the longer one.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.bench_transcode import LADDER, clip_of
from benchmarks.market import load, spread
from benchmarks.serving.models import large
from demo.run import CLIP
from node.adapters.detection.machine import read_machine
from node.adapters.detection.measuring import CUDA, VideoSkill, measure_video
from node.adapters.ffmpeg.arguments import Means, build
from node.adapters.ffmpeg.binary import Ffmpeg, find_ffmpeg
from node.adapters.ffmpeg.hardware import Route, routes
from node.adapters.ffmpeg.transcoder import thread_count
from orchestrator.core.records import ArtifactRecord
from orchestrator.core.transcoding import decide
from tandem.client import transcode
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import TranscodeWork

_SIZES = {"1080p": "1920:1080", "2160p": "3840:2160"}
_REPEATS = 10
_ROUNDS = 3
_RUNS = 20_000
_DECODERS = 4
_INFER = "infer"
_Command = Sequence[str]


def main() -> None:
    machine = read_machine()
    if not machine.gpus:
        print("not measured: expected an NVIDIA GPU and its driver, found none")
        return
    console = Console()
    console.print(f"{', '.join(gpu.name for gpu in machine.gpus)}, driver {machine.driver}; {load()}")
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        asyncio.run(_measure(Path(name), console))


async def _measure(folder: Path, console: Console) -> None:
    ffmpeg = await find_ffmpeg(SystemClock())
    skill = await measure_video(ffmpeg, gpu=True, sandbox=Sandbox.LIMITS, clock=SystemClock())
    console.print(f"ffmpeg {ffmpeg.version}; decodes on the GPU: {', '.join(skill.gpu_decoders) or 'nothing'}")
    sources = {name: _source(ffmpeg, folder / f"source-{name}.mp4", size) for name, size in _SIZES.items()}
    for name, source in sources.items():
        console.print(_ways(name, await _commands(ffmpeg, source, folder, skill)))
    console.print(_shared(ffmpeg, sources["1080p"], folder))


def _source(ffmpeg: Ffmpeg, path: Path, size: str) -> Path:
    once = path.with_stem(f"{path.stem}-once")
    encode = ["-vf", f"scale={size}", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-an"]
    subprocess.run([str(ffmpeg.path), "-loglevel", "error", "-i", str(CLIP), *encode, str(once)], check=True)
    return clip_of(ffmpeg, path, _REPEATS, once)


async def _commands(ffmpeg: Ffmpeg, source: Path, folder: Path, skill: VideoSkill) -> Mapping[Route, _Command]:
    """The node's own, the best way and the processor alone."""
    work = await _work(source)
    best = routes(work, skill.encoders, skill.gpu_decoders, ())[0]
    known = tuple(map(str, skill.encoders))
    return {
        route: [
            str(ffmpeg.path),
            *build(work, Means(source, folder, encoders=known, route=route, threads=thread_count())),
        ]
        for route in (best, Route.CPU)
    }


async def _work(source: Path) -> TranscodeWork:
    media = (await inspect_media(source, sandbox=Sandbox.LIMITS, clock=SystemClock())).media
    record = ArtifactRecord(id=f"sha256:{0:064}", size=1, media_type="video/mp4", created_at=0)
    return decide(transcode(record.id, LADDER), record, media)


def _ways(name: str, commands: Mapping[Route, _Command]) -> Table:
    """Seconds of each way, taken in turns."""
    rounds = [{route: _seconds(command) for route, command in commands.items()} for _ in range(_ROUNDS)]
    table = Table("", "wall, s", "times faster than the processor", title=f"{name} into three", title_justify="left")
    for route in commands:
        faster = spread([each[Route.CPU] / each[route] for each in rounds])
        table.add_row(route, spread([each[route] for each in rounds]), faster)
    return table


def _shared(ffmpeg: Ffmpeg, source: Path, folder: Path) -> Table:
    """One GPU: decoding on its video engine and inference on its cores, alone and together."""
    model = folder / "large.onnx"
    onnx.save(large().proto, model)
    decode = [str(ffmpeg.path), "-loglevel", "error", "-hwaccel", "cuda", "-hwaccel_output_format", "cuda"]
    decoding = [[*decode, "-stream_loop", "3", "-i", str(source), "-f", "null", "-"]] * _DECODERS
    inferring = [[sys.executable, __file__, _INFER, str(model)]]
    rounds = []
    for _ in range(_ROUNDS):
        alone = _seconds(*decoding), _seconds(*inferring)
        rounds.append((*alone, _seconds(*decoding, *inferring)))
    table = Table("", "wall, s", title="Decoding and inference on one GPU", title_justify="left")
    table.add_row("decoding alone", spread([each[0] for each in rounds]))
    table.add_row("inference alone", spread([each[1] for each in rounds]))
    table.add_row("both at once", spread([each[2] for each in rounds]))
    table.add_row("times faster than one after the other", spread([(a + b) / both for a, b, both in rounds]))
    return table


def _seconds(*commands: _Command) -> float:
    """Until all have ended, begun together."""
    begun = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    failures = [each.wait() for each in running]
    if any(failures):
        sys.exit(f"expected {[command[0] for command in commands]} to succeed, they failed")
    return time.monotonic() - begun


def _infer(path: str) -> None:
    """So many runs on CUDA, or an error where ONNX Runtime would fall back to the processor."""
    import onnxruntime as ort

    ort.preload_dlls()
    session = ort.InferenceSession(path, providers=[CUDA])
    if CUDA not in session.get_providers():
        sys.exit("expected a session on CUDA, got one on the processor; install the extra `gpu`")
    feeds = {"input": large().sample()}
    for _ in range(_RUNS):
        session.run(None, feeds)


if __name__ == "__main__":
    _infer(sys.argv[2]) if sys.argv[1:2] == [_INFER] else main()
