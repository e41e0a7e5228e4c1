"""How long after its submission a stream of a ten-minute file can be played.

Playable is what a player needs: the master playlist, and the first segment of the first rendition and of its sound. The
goal is three seconds more than the encoding of one segment, which is timed beside it: the executor's own command line,
by itself on the same machine. Then the job is cancelled.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession
from rich.console import Console
from rich.table import Table

from benchmarks.bench_transcode import clip_of
from benchmarks.market import Market, load, market
from demo.run import CLIP
from node.adapters.ffmpeg.arguments import Means, build
from node.adapters.ffmpeg.binary import find_ffmpeg
from orchestrator.core.records import ArtifactRecord
from orchestrator.core.transcoding import decide
from tandem.client import TandemClient, transcode
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import TranscodeRequest
from tandem.protocol.ladder import AudioSettings, Container, RenditionRequest, Window

_CLIP_SECONDS = 6
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 300.0
_SEGMENT_US = 4_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    nodes: int
    seconds: int
    heights: list[int]
    silent: bool
    variable: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--heights", type=int, nargs="+", default=[480, 240])
    parser.add_argument("--silent", action="store_true", help="without sound, which is a task of its own")
    parser.add_argument("--variable", action="store_true", help="with one picture in five left out")
    asked = Asked(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name, market(count=asked.nodes) as running:
        asyncio.run(_measure(running, Path(name), asked))


async def _measure(running: Market, folder: Path, asked: Asked) -> None:
    clip = folder / "clip.mp4"
    ffmpeg = await find_ffmpeg(SystemClock())
    film = _thinned(ffmpeg.path, folder / "thinned.mp4") if asked.variable else CLIP
    clip_of(ffmpeg, clip, asked.seconds // _CLIP_SECONDS, film)
    sound = None if asked.silent else AudioSettings()
    ladder = [RenditionRequest(height=height, audio=sound) for height in asked.heights]
    async with TandemClient(running.url) as client, asyncio.timeout(_PATIENCE_SECONDS):
        begun = time.monotonic()
        source = await client.upload(clip, "video/mp4")
        uploaded = time.monotonic()
        request = transcode(source.id, ladder, container=Container.HLS)
        job = await client.submit(request)
        submitted = time.monotonic()
        tracks = [f"{asked.heights[0]}p", *([] if asked.silent else ["audio0"])]
        first = await _playable(running.url + (job.folder or ""), tracks)
        playable = time.monotonic()
        await client.cancel(job.id)
    alone = await _one_segment(ffmpeg.path, clip, request)
    kind = f"{', silent' if asked.silent else ''}{', variable rate' if asked.variable else ''}"
    what = f"{asked.seconds} s of 720p to {asked.heights}{kind}, {asked.nodes} nodes"
    table = Table("step", "s", title=f"{what}; {load()}")
    table.add_row("upload", f"{uploaded - begun:.2f}")
    table.add_row("probe and submission", f"{submitted - uploaded:.2f}")
    table.add_row("from then to the first segment", f"{playable - submitted:.2f}")
    table.add_row("from the request to the first segment", f"{playable - uploaded:.2f}")
    table.add_row("one segment's encoding alone", f"{alone:.2f}")
    table.add_row("the goal: that and 3 s", f"{alone + 3:.2f}")
    Console().print(table)
    if not first:
        sys.exit("expected a segment with bytes, got none")


def _thinned(program: Path, path: Path) -> Path:
    options = ["-vf", "select='gt(random(0),0.2)'", "-fps_mode", "vfr", "-c:v", "libx264", "-preset", "veryfast"]
    subprocess.run(
        [str(program), "-loglevel", "error", "-i", str(CLIP), *options, "-c:a", "copy", str(path)], check=True
    )
    return path


async def _playable(folder: str, tracks: list[str]) -> int:
    """Bytes of the smallest file that playing begins with, once all can be had."""
    async with ClientSession() as http:

        async def fetched(path: str) -> bytes | None:
            async with http.get(folder + path) as response:
                return await response.read() if response.ok else None

        while not await fetched("master.m3u8"):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(_POLL_SECONDS)
        sizes = []
        for name in tracks:
            lines = (await fetched(f"{name}/playlist.m3u8") or b"").decode().splitlines()
            segment = next(line for line in lines if not line.startswith("#"))
            sizes += [len(await fetched(f"{name}/{path}") or b"") for path in ("init.mp4", segment)]
        return min(sizes)


async def _one_segment(program: Path, clip: Path, request: TranscodeRequest) -> float:
    found = await inspect_media(clip, sandbox=Sandbox.LIMITS, clock=SystemClock())
    record = ArtifactRecord(id="sha256:" + "0" * 64, size=1, media_type="", created_at=0)
    work = decide(request, record, found.media)
    window = Window(start_us=work.origin_us, end_us=work.origin_us + _SEGMENT_US)
    alone = work.model_copy(update={"window": window, "audio": (), "direct": False})
    argv = [str(program), *build(alone, Means(clip, clip.parent, threads=3))]
    begun = time.monotonic()
    await asyncio.to_thread(subprocess.run, argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
