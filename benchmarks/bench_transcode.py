"""A transcode through Tandem against one bare ffmpeg: same file, same ladder, same program, same arguments.

The clip is the demo's, enlarged to 1920x1080 and repeated by stream copy to 60 s. Each pair of runs has a copy of its
own, which differs in a comment, so that Tandem has nothing of it in a cache: it uploads, probes, sends to the node,
transcodes, gets back, verifies and downloads every time. The bare ffmpeg runs outside the sandbox. Outputs differ from
run to run by a few bytes, since x264's rate control depends on how its threads take turns; that their sizes agree is
checked.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.market import Market, load, market, spread
from demo.run import CLIP
from node.adapters.ffmpeg.arguments import Means, build
from node.adapters.ffmpeg.binary import Ffmpeg, find_ffmpeg
from node.adapters.ffmpeg.transcoder import thread_count
from orchestrator.core.records import ArtifactRecord
from orchestrator.core.transcoding import decide
from tandem.client import TandemClient, transcode
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.api import JobView, TranscodeResult
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import JobState
from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.media import MediaInfo

LADDER = tuple(RenditionRequest(height=height) for height in (1080, 720, 480))
_REPEATS = 10
_PAIRS = 3
_ENOUGH_SECONDS = 240.0
"""After which no further pair is begun: a busy machine makes fewer."""
_PATIENCE_SECONDS = 600.0
_TOLERANCE = 0.01
_PRICE = ("--prices.megapixel", '{"h264": "0.2 gwei"}', "--prices.track-minute", "25 gwei")
"""The default, not the demo's, whose tickets would be paid while the next run is timed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Where the seconds of one run went; together they are all of it."""

    upload: float
    submission: float
    """The probe of the source included."""
    queue: float
    """Until the attempt began."""
    node: float
    """From there until the node said that it had finished: fetch, encode, hand over."""
    verification: float
    download: float
    """From the end of the job until the last rendition is on disk."""


@dataclass(frozen=True, slots=True)
class Pair:
    bare_wall: float
    bare_cpu: float
    wall: float
    cpu: float
    steps: Steps


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name, market(*_PRICE) as running:
        asyncio.run(_compare(running, Path(name), console))


async def _compare(running: Market, folder: Path, console: Console) -> None:
    ffmpeg = await find_ffmpeg(SystemClock())
    pairs = []
    source = _enlarged(ffmpeg, folder / "1080p.mp4")
    async with TandemClient(running.url) as client:
        await _pair(running, client, ffmpeg, clip_of(ffmpeg, folder / "warm-up.mp4", 1, source))
        begun = time.monotonic()
        for number in range(_PAIRS):
            if time.monotonic() - begun > _ENOUGH_SECONDS:
                break
            clip = clip_of(ffmpeg, folder / f"{number}.mp4", _REPEATS, source)
            pairs.append(await _pair(running, client, ffmpeg, clip))
    media, size = await _probe(clip), clip.stat().st_size / 10**6
    seconds = media.duration_us / 10**6
    console.print(f"{CLIP.name} at 1080p, {_REPEATS} times: {seconds:.0f} s, {size:.1f} MB; ffmpeg {ffmpeg.version}")
    _show(pairs, console)


def _show(pairs: Sequence[Pair], console: Console) -> None:
    ladder = ", ".join(str(each.height) for each in LADDER)
    table = Table("", "wall, s", "CPU, s", title=f"Transcode to {ladder}; {load()}", title_justify="left")
    table.add_row("bare ffmpeg", spread([each.bare_wall for each in pairs]), spread([each.bare_cpu for each in pairs]))
    table.add_row("Tandem", spread([each.wall for each in pairs]), spread([each.cpu for each in pairs]))
    walls = spread([each.wall / each.bare_wall for each in pairs], 3)
    table.add_row("ratio", walls, spread([each.cpu / each.bare_cpu for each in pairs], 3))
    console.print(table)
    for step in fields(Steps):
        console.print(f"{step.name:<13}", spread([getattr(each.steps, step.name) for each in pairs]), "s")
    console.print(f"Pairs: {len(pairs)}, after a warm-up, medians (least to most).")


async def _pair(running: Market, client: TandemClient, ffmpeg: Ffmpeg, clip: Path) -> Pair:
    with tempfile.TemporaryDirectory(dir=clip.parent) as bare, tempfile.TemporaryDirectory(dir=clip.parent) as ours:
        argv = _arguments(ffmpeg, clip, await _probe(clip), Path(bare))
        bare_wall, bare_cpu = await asyncio.to_thread(_run, argv)
        before, begun = sum(running.cpu().values()), time.monotonic()
        steps = await _through_tandem(client, clip, Path(ours))
        wall, cpu = time.monotonic() - begun, sum(running.cpu().values()) - before
        _compare_sizes(Path(bare), Path(ours))
    return Pair(bare_wall, bare_cpu, wall, cpu, steps)


async def _through_tandem(client: TandemClient, clip: Path, folder: Path) -> Steps:
    begun = time.time()
    artifact = await client.upload(clip, "video/mp4")
    uploaded = time.time()
    submitted = await client.submit(transcode(artifact.id, LADDER))
    delivered = await _delivered(client, submitted.id)
    job = await client.job(submitted.id)
    for rendition in _result(job).renditions:
        await client.download(rendition.artifact, folder / f"{rendition.name}.mp4")
    (attempt,) = job.attempts
    created, started = job.created_at.timestamp(), attempt.started_at.timestamp()
    ended = (attempt.finished_at or attempt.started_at).timestamp()
    return Steps(
        upload=uploaded - begun,
        submission=created - uploaded,
        queue=started - created,
        node=delivered - started,
        verification=ended - delivered,
        download=time.time() - ended,
    )


async def _delivered(client: TandemClient, job: str) -> float:
    """When the node had finished; returns once the job is over."""
    delivered = 0.0
    async with asyncio.timeout(_PATIENCE_SECONDS), aclosing(client.watch(job)) as updates:
        async for update in updates:
            if update.state is JobState.VERIFYING and not delivered:
                delivered = time.time()
    return delivered


def _result(job: JobView) -> TranscodeResult:
    if not isinstance(job.result, TranscodeResult):
        sys.exit(f"expected {job.id} to succeed, it has {job.state}: {job.error}")
    return job.result


def clip_of(ffmpeg: Ffmpeg, clip: Path, repeats: int, source: Path = CLIP) -> Path:
    """The source so many times, with a comment of its own. Read twice: pictures and sound are not as long."""
    comment = ["-metadata", f"comment={clip.stem}"]
    repeated = ["-stream_loop", str(repeats - 1), "-i", str(source)]
    streams = ["-map", "0:v", "-map", "1:a", "-c", "copy"]
    argv = [str(ffmpeg.path), "-loglevel", "error", *repeated, *repeated, *streams, *comment, str(clip)]
    subprocess.run(argv, check=True)
    return clip


def _enlarged(ffmpeg: Ffmpeg, clip: Path) -> Path:
    encode = ["-vf", "scale=1920:1080", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-c:a", "copy"]
    subprocess.run([str(ffmpeg.path), "-loglevel", "error", "-i", str(CLIP), *encode, str(clip)], check=True)
    return clip


async def _probe(clip: Path) -> MediaInfo:
    return (await inspect_media(clip, sandbox=Sandbox.LIMITS, clock=SystemClock())).media


def _arguments(ffmpeg: Ffmpeg, clip: Path, media: MediaInfo, folder: Path) -> list[str]:
    """The node's own."""
    source = ArtifactRecord(id=f"sha256:{0:064}", size=clip.stat().st_size, media_type="video/mp4", created_at=0)
    work = decide(transcode(source.id, LADDER), source, media)
    return [str(ffmpeg.path), *build(work, Means(clip, folder, threads=thread_count()))]


def _run(argv: Sequence[str]) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    begun = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"expected ffmpeg to succeed, it ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def _compare_sizes(bare: Path, ours: Path) -> None:
    sizes = [{each.name: each.stat().st_size for each in folder.iterdir()} for folder in (bare, ours)]
    alike = sizes[0].keys() == sizes[1].keys() and all(
        abs(size - sizes[1][name]) <= size * _TOLERANCE for name, size in sizes[0].items()
    )
    if not alike:
        sys.exit(f"expected the same renditions of both, got files of {sizes[0]} and {sizes[1]} bytes")


if __name__ == "__main__":
    main()
