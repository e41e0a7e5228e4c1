"""Tandem from end to end on this machine: `make demo`, or `make demo KEEP=1` to leave it running.

A chain, an orchestrator and two nodes are started; a video and a model go in over HTTP, the nodes do the work and are
paid on the chain.
"""

import argparse
import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from demo.marketplace import PROGRAMS, ROOT, Marketplace, deploy, start_chain, start_nodes, start_orchestrator
from demo.pictures import Answer, Earnings, show_digits, show_earnings, show_jobs, show_renditions
from demo.processes import DemoFailed, Processes
from tandem.client import Inference, TandemClient, transcode
from tandem.protocol.api import JobView, TranscodeResult
from tandem.protocol.errors import TandemError
from tandem.protocol.ladder import RenditionRequest, VideoSettings

CLIP = ROOT / "demo" / "clip" / "big_buck_bunny.mp4"
DIGITS = ROOT / "demo" / "digits.json"
MODEL = ROOT / "models" / "digits" / "digits.onnx"
_ACTIVATE = ROOT / ".venv" / "bin" / "activate"
LADDER = tuple(
    RenditionRequest(height=height, video=VideoSettings(bitrate=bitrate))
    for height, bitrate in ((720, 2_500_000), (480, 1_200_000), (360, 700_000))
)

A = TypeVar("A")
B = TypeVar("B")

_NODES_SECONDS = 120.0
_PAID_SECONDS = 60.0
_POLL_SECONDS = 0.3
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Done:
    transcode: JobView
    renditions: TranscodeResult
    answers: Sequence[Answer]
    jobs: Sequence[JobView]


def main() -> int:
    """0 if all went well, else 1 and the reason. Nothing is left running, unless that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    keep: bool = parser.parse_args().keep
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console()
    with Processes(PROGRAMS, console) as processes:
        try:
            _show(processes, console, keep=keep)
        except (DemoFailed, TandemError) as error:
            console.print(f"The demo failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            console.print(processes.ended(), markup=False, highlight=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print("Interrupted: ending what was started.")
            return _INTERRUPTED
    return 0


def _show(processes: Processes, console: Console, *, keep: bool) -> None:
    console.rule("A chain with the ticket contract, an orchestrator, two nodes")
    market = deploy(processes, start_chain(processes))
    start_orchestrator(market)
    start_nodes(market)
    before = market.balances()
    done = asyncio.run(_submit(market, console))
    console.rule("Done")
    show_renditions(console, done.renditions.renditions)
    show_digits(console, done.answers)
    show_jobs(console, [done.transcode, *done.jobs], {address: name for name, address in market.nodes.items()})
    console.rule("Paid")
    with console.status("waiting until every ticket that won is redeemed"):
        earnings = processes.wait_for("the winners to be redeemed", lambda: _paid(market, before), _PAID_SECONDS)
    show_earnings(console, earnings)
    if keep:
        _leave(market, console)


def _paid(market: Marketplace, before: Mapping[str, int]) -> list[Earnings] | None:
    earnings = market.earnings(before)
    open_ = any(each.outstanding or each.received < each.earned for each in earnings)
    return None if open_ else earnings


async def _submit(market: Marketplace, console: Console) -> Done:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    async with TandemClient(market.url) as client:
        with console.status("waiting for the nodes, which measure what they can do"):
            await _connected(client, market)
        console.rule("A video and a model go in over HTTP")
        with Progress(*columns, console=console) as progress:
            job, inferences = await _both(_transcode(client, progress), _infer(client, progress))
    if not isinstance(job.result, TranscodeResult):
        raise DemoFailed(f"expected {job.id} to succeed, it has {job.state}: {job.error}")
    digits = json.loads(DIGITS.read_text())
    answers = [
        Answer(
            digit["pixels"], digit["shows"], inference.outputs["label"][0], max(inference.outputs["probabilities"][0])
        )
        for digit, inference in zip(digits, inferences, strict=True)
    ]
    return Done(job, job.result, answers, [inference.job for inference in inferences])


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Both at the same time, so that each node has something to do."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except ExceptionGroup as failures:
        raise DemoFailed("; ".join(str(failure) for failure in failures.exceptions)) from failures
    return tasks[0].result(), tasks[1].result()


async def _connected(client: TandemClient, market: Marketplace) -> None:
    try:
        async with asyncio.timeout(_NODES_SECONDS):
            while len((await client.nodes()).nodes) < len(market.nodes):
                market.processes.check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise DemoFailed(
            f"expected the nodes to connect within {_NODES_SECONDS:.0f} seconds\n{market.processes.logs()}"
        ) from error


async def _transcode(client: TandemClient, progress: Progress) -> JobView:
    upload = progress.add_task("upload", total=CLIP.stat().st_size)
    clip = await client.upload(CLIP, "video/mp4", lambda sent, _: progress.update(upload, completed=sent))
    bar = progress.add_task("transcode", total=100)
    job = await client.submit(transcode(clip.id, LADDER))
    async with aclosing(client.watch(job.id)) as updates:
        async for update in updates:
            progress.update(bar, completed=update.percent)
    return await client.job(job.id)


async def _infer(client: TandemClient, progress: Progress) -> list[Inference]:
    digits = json.loads(DIGITS.read_text())
    bar = progress.add_task("inference", total=len(digits))
    model = await client.upload(MODEL)
    await client.add_model("digits", "1", model.id)
    answers = []
    for digit in digits:
        answers.append(await client.infer("digits", {"image": [digit["pixels"]]}))
        progress.advance(bar)
    return answers


def _leave(market: Marketplace, console: Console) -> None:
    groups = market.processes.leave()
    console.rule("Left running")
    looks = (
        market.orchestrator("ledger"),
        market.orchestrator("key", "create", "friend"),
        market.node(next(iter(market.nodes)), "status"),
    )
    stop = f"kill -- {' '.join(f'-{group}' for group in reversed(groups))}"
    lines = (
        f"orchestrator  {market.url}",
        f"chain         {market.rpc}",
        f"contract      {market.contract}",
        f"state, logs   {market.processes.folder}",
        "",
        "For the commands of the README, and for `tandem`:",
        f"  export T={market.url} TANDEM_URL={market.url} && . {_ACTIVATE}",
        "  curl $T/v1/jobs",
        f"  tandem transcode {CLIP} -r 480 -o out",
        "",
        "Whether all books agree, a key for another machine, and what a node has earned:",
        *(f"  (cd {market.processes.folder} && {shlex.join(command)})" for command in looks),
        "",
        f"To stop it: {stop} && sleep 5 && rm -r {market.processes.folder}",
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
