"""On-line inference: Tandem beside a bare loop over `session.run`, FastAPI, Triton's Python backend and MLServer.

All servers are up on the same cores as the clients, and take turns, round after round. Tandem is the whole market:
chain, orchestrator and node, by the commands that a user types, every answer paid. Ratios are taken within a round, so
that what else the machine does hits both sides. `--gpu` takes CUDA in place of the processor, in all of them.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.market import Market, load, market, spread
from benchmarks.serving.load import Outcome, Target, ask, binary_request, drive, json_request, output_of
from benchmarks.serving.models import BenchModel, large, small, transformer
from benchmarks.serving.servers import Server, peers
from tandem.client import TandemClient
from tandem.protocol.models import ModelSettings

_BARE = "bare session.run"
_TANDEM = "Tandem"
_TOLERANCE = 1e-3
_BATCH = 32
_WINDOW_US = 1000
_PRICE = ("--prices.inference-second", "50 gwei")
"""The default, not the demo's, with which nearly every answer would be a ticket."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of figures: a model under so many clients, in one form of tensors."""

    title: str
    model: BenchModel
    clients: int
    binary: bool = True
    batched: bool = False
    """Beside the model as it is, the same with dynamic batching, where the server has it."""


def main() -> None:
    asked = _arguments()
    provider = "CUDAExecutionProvider" if asked.gpu else "CPUExecutionProvider"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {each.name: each for each in (small(), large(), transformer())}
        (folder / "models").mkdir()
        for each in models.values():
            onnx.save(each.proto, folder / "models" / f"{each.name}.onnx")
        with (
            _tandem(folder / "models", models, gpu=asked.gpu) as ours,
            peers(folder, folder / "models", provider) as others,
        ):
            for case in _cases(models):
                _measure(case, [ours, *others], folder / "models", provider, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each server in a round")
    parser.add_argument("--gpu", action="store_true", help="CUDA in place of the processor")
    return parser.parse_args()


def _cases(models: Mapping[str, BenchModel]) -> list[Case]:
    return [
        Case("0.4 ms model, binary, 1 client", models["small"], 1),
        Case("0.4 ms model, binary, 8 clients", models["small"], 8),
        Case("0.4 ms model, JSON, 8 clients", models["small"], 8, binary=False),
        Case("36 ms model, binary, 8 clients", models["large"], 8),
        Case("small transformer, binary, 32 clients", models["transformer"], 32, batched=True),
    ]


@contextmanager
def _tandem(folder: Path, models: Mapping[str, BenchModel], *, gpu: bool) -> Iterator[Server]:
    with market("--capacity.gpu", "true" if gpu else "false", *_PRICE) as running:
        asyncio.run(_register(running, folder, models))
        yield Server(_TANDEM, running.url, batches=True)


async def _register(running: Market, folder: Path, models: Mapping[str, BenchModel]) -> None:
    async with TandemClient(running.url) as client:
        for each in models.values():
            artifact = await client.upload(folder / f"{each.name}.onnx")
            await client.add_model(each.name, "1", artifact.id)
            if each.batchable:
                settings = ModelSettings(max_batch=_BATCH, batch_window_us=_WINDOW_US)
                await client.add_model(f"{each.name}-batched", "1", artifact.id, settings=settings)


def _measure(case: Case, servers: Sequence[Server], models: Path, provider: str, asked: argparse.Namespace) -> None:
    runs = {_BARE: _bare(case, models, provider)}
    for server in servers:
        if server.binary or not case.binary:
            runs[server.name] = _driven(case, server, case.model.name)
        if case.batched and server.batches:
            runs[f"{server.name}, batched"] = _driven(case, server, f"{case.model.name}-batched")
    expected = _expected(case, models, provider)
    for server in servers:
        if server.binary or not case.binary:
            _same(server, _target(case, server, case.model.name), expected)
    rounds = [{name: run(asked.seconds) for name, run in runs.items()} for _ in range(asked.rounds)]
    Console(width=112).print(_table(case, list(runs), rounds))


def _target(case: Case, server: Server, model: str) -> Target:
    make = binary_request if case.binary and server.binary else json_request
    return Target(server.name, server.url, make(server.infer(model), case.model.sample(), server.headers))


def _driven(case: Case, server: Server, model: str) -> Callable[[float], Outcome]:
    target = _target(case, server, model)
    return lambda seconds: asyncio.run(drive(target, case.clients, seconds))


def _bare(case: Case, models: Path, provider: str) -> Callable[[float], Outcome]:
    def run(seconds: float) -> Outcome:
        found = _loop(case, models, provider, threads=1 if case.clients == 1 else 2, seconds=seconds)
        return Outcome(found["seconds"], found["latencies"])

    return run


def _loop(case: Case, models: Path, provider: str, *, threads: int, seconds: float) -> Any:
    stored = io.BytesIO()
    np.save(stored, case.model.sample())
    path = models / f"{case.model.name}.onnx"
    command = [sys.executable, "-m", "benchmarks.serving.bare", str(path), str(threads), str(seconds), provider]
    return json.loads(subprocess.run(command, input=stored.getvalue(), stdout=subprocess.PIPE, check=True).stdout)


def _expected(case: Case, models: Path, provider: str) -> Sequence[float]:
    found: Sequence[float] = _loop(case, models, provider, threads=1, seconds=0.1)["output"]
    return found


def _same(server: Server, target: Target, expected: Sequence[float]) -> None:
    got = output_of(asyncio.run(ask(target)))
    if got.size != len(expected) or not np.allclose(got, expected, atol=_TOLERANCE):
        sys.exit(f"{server.name}: expected the values of the bare loop, got others")


def _table(case: Case, names: Sequence[str], rounds: Sequence[Mapping[str, Outcome]]) -> Table:
    table = Table(title=f"{case.title}; {load()}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("a second", "of the bare loop", "p50, ms", "p50 over bare, ms", "p99, ms"):
        table.add_column(column, justify="right")
    for name in names:
        ratios = [each[name].rate / each[_BARE].rate for each in rounds]
        over = [median(each[name].latencies) - median(each[_BARE].latencies) for each in rounds]
        latencies = [seconds for each in rounds for seconds in each[name].latencies]
        table.add_row(
            name,
            f"{median(each[name].rate for each in rounds):,.0f}",
            spread(ratios),
            f"{median(latencies) * 1000:.2f}",
            f"{median(over) * 1000:.2f}",
            f"{quantiles(latencies, n=100)[98] * 1000:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
