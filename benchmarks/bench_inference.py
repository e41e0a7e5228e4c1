"""1,000 small inference jobs through Tandem, one after another and 16 at a time, against a bare ONNX Runtime loop.

A job is one image for the digit classifier, 64 numbers: nearly all that is measured is what Tandem adds. Each job is
submitted, watched until it ends, and fetched, over HTTP; its result is verified and paid with tickets at the demo's
prices. The answers are compared with those of the bare loop, which runs in a process of its own.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean, quantiles

from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from benchmarks.market import Market, load, market
from demo.run import MODEL
from tandem.client import TandemClient
from tandem.client.inference import inference_request
from tandem.protocol.api import InferenceResult, JobView
from tandem.protocol.jobs import InferenceRequest

_JOBS = 1000
_WARM_UP = 50
_CONCURRENCIES = (1, 16)
_BARE = "bare"


@dataclass(frozen=True, slots=True)
class Timed:
    """A job with the moments before its submission and after its answer, in seconds since the epoch."""

    begun: float
    done: float
    job: JobView

    @property
    def label(self) -> int:
        if not isinstance(self.job.result, InferenceResult):
            sys.exit(f"expected {self.job.id} to succeed, it has {self.job.state}: {self.job.error}")
        (label,) = (tensor.data[0] for tensor in self.job.result.outputs if tensor.name == "label")
        return int(label)


@dataclass(frozen=True, slots=True)
class Round:
    """Some way of getting all answers."""

    name: str
    seconds: float
    latencies: Sequence[float]
    cpu: Mapping[str, float]
    """CPU seconds by process."""

    def cells(self, bare: "Round") -> list[str]:
        cuts = quantiles(self.latencies, n=100)
        rate = len(self.latencies) / self.seconds
        cpu = sum(self.cpu.values()) / len(self.latencies)
        return [
            self.name,
            f"{rate:,.0f}",
            f"{cuts[49] * 1000:.2f}",
            f"{cuts[98] * 1000:.2f}",
            f"{cpu * 1000:.2f}",
            f"{self.seconds / bare.seconds:,.0f}",
        ]


Steps = Mapping[str, float]
"""Mean milliseconds of a job, by what they were spent on; together they are its latency."""


def main() -> None:
    console = Console()
    bare, labels = _bare_round()
    with market() as running:
        rounds, steps, tickets = asyncio.run(_rounds(running, labels))
    table = Table(title=f"{_JOBS:,} inferences; {load()}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("a second", "p50, ms", "p99, ms", "CPU ms each", "times bare"):
        table.add_column(column, justify="right")
    for each in (bare, *rounds):
        table.add_row(*each.cells(bare))
    console.print(table)
    console.print(_table("CPU of a job by process, mean ms", rounds, [_cpu(each) for each in rounds]))
    console.print(_table("Where a job's time goes, mean ms", rounds, steps))
    console.print(f"Tickets received by the node: {tickets:,}")


def _table(title: str, rounds: Sequence[Round], columns: Sequence[Mapping[str, float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for each in rounds:
        table.add_column(each.name, justify="right")
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:.2f}" for column in columns))
    return table


def _cpu(each: Round) -> Mapping[str, float]:
    return {name: seconds * 1000 / len(each.latencies) for name, seconds in each.cpu.items()}


async def _rounds(running: Market, labels: Sequence[int]) -> tuple[list[Round], list[Steps], int]:
    rounds, steps = [], []
    async with TandemClient(running.url) as client:
        requests = await _requests(client)
        await _run(client, requests[:_WARM_UP], 1)
        for concurrency in _CONCURRENCIES:
            before, begun = running.cpu(), time.monotonic()
            timed = await _run(client, requests, concurrency)
            seconds, after = time.monotonic() - begun, running.cpu()
            if [each.label for each in timed] != labels:
                sys.exit("expected the labels of the bare loop, got others")
            cpu = {name: after[name] - before[name] for name in after}
            name = f"Tandem, {concurrency} at once"
            rounds.append(Round(name, seconds, [each.done - each.begun for each in timed], cpu))
            steps.append(_steps(timed, _node_seconds(running)))
    return rounds, steps, running.tickets()


async def _requests(client: TandemClient) -> list[InferenceRequest]:
    artifact = await client.upload(MODEL)
    model = await client.add_model("digits", "1", artifact.id)
    return [inference_request(model, {"image": [image]}) for image in _images()]


async def _run(client: TandemClient, requests: Sequence[InferenceRequest], concurrency: int) -> list[Timed]:
    """All of them, so many at a time, in their order."""
    timed: dict[int, Timed] = {}
    waiting = iter(enumerate(requests))

    async def work() -> None:
        for number, request in waiting:
            begun = time.time()
            job = await client.wait((await client.submit(request)).id)
            timed[number] = Timed(begun, time.time(), job)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return [timed[number] for number in range(len(requests))]


def _steps(timed: Sequence[Timed], node: Mapping[str, float]) -> Steps:
    def average(seconds: Callable[[Timed], float]) -> float:
        return mean(map(seconds, timed)) * 1000

    return {
        "submission over HTTP": average(lambda each: _created(each) - each.begun),
        "written, queued": average(lambda each: _started(each) - _created(each)),
        "node": average(lambda each: node[each.job.id]),
        "messages, verification": average(lambda each: _ended(each) - _started(each) - node[each.job.id]),
        "event, fetching": average(lambda each: each.done - _ended(each)),
    }


def _created(timed: Timed) -> float:
    return timed.job.created_at.timestamp()


def _started(timed: Timed) -> float:
    return timed.job.attempts[-1].started_at.timestamp()


def _ended(timed: Timed) -> float:
    ended = timed.job.attempts[-1].finished_at
    assert isinstance(ended, datetime)  # noqa: S101 - it was accepted
    return ended.timestamp()


def _node_seconds(running: Market) -> dict[str, float]:
    """By job, as the node logged it, to the millisecond."""
    lines = (json.loads(line) for line in running.node.log.read_text().splitlines())
    return {line["attempt"].partition(".")[0]: line["seconds"] for line in lines if line["event"] == "attempt"}


def _images() -> Iterator[list[float]]:
    return iter(load_digits().data[:_JOBS].tolist())


def _bare_round() -> tuple[Round, list[int]]:
    output = subprocess.run([sys.executable, __file__, _BARE], check=True, capture_output=True, text=True).stdout
    found = json.loads(output)
    return Round("bare session.run", found["seconds"], found["latencies"], {"bare": found["cpu"]}), found["labels"]


def _bare() -> None:
    """One session, as the node's worker would open it on one core; the images one by one."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(Path(MODEL), options, providers=["CPUExecutionProvider"])
    images = [np.array([image], np.float32) for image in _images()]
    for image in images[:_WARM_UP]:
        session.run(None, {"image": image})
    latencies, labels = [], []
    begun, used = time.perf_counter(), time.process_time()
    for image in images:
        start = time.perf_counter()
        (label,), _ = session.run(None, {"image": image})
        latencies.append(time.perf_counter() - start)
        labels.append(int(label))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    print(json.dumps({"seconds": seconds, "latencies": latencies, "labels": labels, "cpu": cpu}))


if __name__ == "__main__":
    _bare() if sys.argv[1:] == [_BARE] else main()
