"""One transcode over more and more nodes of one core each, held to it by CPU affinity.

The clip is the demo's, repeated by stream copy; for each number of nodes a market of its own is started, so that
nothing is cached. Speed-up is against one node, which gets the file whole. CPU time is that of all processes while the
job runs.

Where there are fewer cores than nodes, `--share 0.1` holds each node to a tenth of a core by a control group: so many
slow machines on one. The orchestrator is not held back, so its part of the time is then smaller than it would be.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench_transcode import clip_of
from benchmarks.market import Market, load, market
from node.adapters.ffmpeg.binary import find_ffmpeg
from tandem.client import TandemClient, transcode
from tandem.clock import SystemClock
from tandem.protocol.jobs import AttemptState, JobState
from tandem.protocol.ladder import RenditionRequest

_COUNTS = (1, 2, 4, 8, 16)
_CLIP_SECONDS = 6
_SHORT, _LONG = 60, 300
"""Seconds of the source: long where there are many nodes, so that all have something to do."""
_MANY = 4
_PATIENCE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Asked:
    nodes: list[int]
    share: float
    seconds: int
    heights: list[int]


@dataclass(frozen=True, slots=True)
class Run:
    nodes: int
    tasks: int
    doubled: int
    """Attempts that were begun beside one that lagged."""
    wall: float
    cpu: float
    shares: tuple[int, ...]
    """Accepted tasks by node."""


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        runs = []
        for count in asked.nodes:
            runs.append(_run(Path(name), count, asked))
            _show(Console(), runs, asked)  # again after each, since they take minutes


def _arguments() -> Asked:
    counts = [count for count in _COUNTS if count <= len(os.sched_getaffinity(0))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=counts)
    parser.add_argument("--share", type=float, default=1.0, help="of a core, for each node")
    parser.add_argument("--seconds", type=int, default=_LONG if counts[-1] > _MANY else _SHORT)
    parser.add_argument("--heights", type=int, nargs="+", default=[480, 240])
    return Asked(**vars(parser.parse_args()))


def _run(folder: Path, count: int, asked: Asked) -> Run:
    with market("--capacity.cpu", "1", count=count, share=asked.share) as running:
        return asyncio.run(_transcode(running, folder / f"{count}.mp4", asked))


async def _transcode(running: Market, clip: Path, asked: Asked) -> Run:
    clip_of(await find_ffmpeg(SystemClock()), clip, asked.seconds // _CLIP_SECONDS)
    ladder = [RenditionRequest(height=height) for height in asked.heights]
    async with TandemClient(running.url) as client, asyncio.timeout(_PATIENCE_SECONDS):
        source = await client.upload(clip, "video/mp4")
        begun, before = time.monotonic(), sum(running.cpu().values())
        job = await client.wait((await client.submit(transcode(source.id, ladder))).id)
        wall, cpu = time.monotonic() - begun, sum(running.cpu().values()) - before
    if job.state is not JobState.SUCCEEDED:
        sys.exit(f"expected {job.id} to succeed, it has {job.state}: {job.error}")
    tasks = {attempt.task for attempt in job.attempts}
    done = Counter(attempt.node for attempt in job.attempts if attempt.state is AttemptState.ACCEPTED)
    doubled = len(job.attempts) - len(tasks)
    return Run(len(running.nodes), len(tasks), doubled, wall, cpu, tuple(sorted(done.values(), reverse=True)))


def _show(console: Console, runs: list[Run], asked: Asked) -> None:
    heights = ", ".join(map(str, asked.heights))
    title = f"{asked.seconds} s of 720p to {heights}, nodes of {asked.share:g} cores; {load()}"
    table = Table(
        "nodes", "tasks", "wall, s", "speed-up", "CPU, s", "extra CPU", "tasks by node", "doubled", title=title
    )
    alone = runs[0]
    for each in runs:
        table.add_row(
            str(each.nodes),
            str(each.tasks),
            f"{each.wall:.1f}",
            f"{alone.wall / each.wall:.2f}",
            f"{each.cpu:.1f}",
            f"{100 * (each.cpu / alone.cpu - 1):+.0f} %",
            ", ".join(map(str, each.shares)),
            str(each.doubled),
        )
    console.print(table)


if __name__ == "__main__":
    main()
