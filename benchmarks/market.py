"""What the benchmarks share: a market of one node, started by the commands that a user types, and what it costs."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console

from demo.marketplace import PROGRAMS, Marketplace, deploy, start_chain, start_orchestrator
from demo.processes import Processes, Running

_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Market:
    """A chain, an orchestrator and nodes that offer no GPU."""

    marketplace: Marketplace
    nodes: tuple[Running, ...]

    @property
    def node(self) -> Running:
        """The only one."""
        (node,) = self.nodes
        return node

    @property
    def url(self) -> str:
        return self.marketplace.url

    @property
    def folder(self) -> Path:
        return self.marketplace.processes.folder

    def tickets(self) -> int:
        """That the node has received so far."""
        (status,) = self.marketplace.status().values()
        return int(status["tickets"])

    def cpu(self) -> Mapping[str, float]:
        """CPU seconds so far, user and system, by process, children included; `submitter` is this process alone.

        `orphans` are children of a sandbox that ended before them, ffmpeg among them.
        """
        stats = _stats()
        trees = {each.name: _tree(stats, each.process.pid) for each in self.marketplace.processes.running}
        own = os.times()
        orphans = _tree(stats, os.getpid()) - stats[os.getpid()][1] / _TICKS - sum(trees.values())
        return {**trees, "submitter": own.user + own.system, "orphans": orphans}


@contextmanager
def market(*node_flags: str, count: int = 1, one_core: bool = False) -> Iterator[Market]:
    """With `one_core` each node is held to a core. Leaving it ends and removes all, also by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # Orphans come to this process, which never waits for them: so they stay in /proc with what they used (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with Processes(PROGRAMS, Console(quiet=True)) as processes:
        marketplace = deploy(processes, start_chain(processes), [f"node-{index}" for index in range(1, count + 1)])
        start_orchestrator(marketplace)
        cores = sorted(os.sched_getaffinity(0))
        nodes = []
        for name, core in zip(marketplace.nodes, cores * count, strict=False):
            command = marketplace.node(name, "run", "--capacity.gpu", "false", *node_flags)
            nodes.append(processes.start(name, *(_pinned(core, command) if one_core else command)))
            # One after the other, so that each measures its speed alone.
            processes.wait_for(f"{name} to measure and connect", partial(_connected, processes, len(nodes)), 120.0)
        try:
            yield Market(marketplace, tuple(nodes))
        except Exception:
            print(processes.logs(), file=sys.stderr)
            raise


def load() -> str:
    """How busy the machine is, to be said beside every figure."""
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


def spread(values: list[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _pinned(core: int, command: Sequence[str]) -> list[str]:
    set_and_run = f"import os, sys; os.sched_setaffinity(0, [{core}]); os.execvp(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", set_and_run, *command]


def _connected(processes: Processes, count: int) -> bool | None:
    orchestrator = next(each for each in processes.running if each.name == "orchestrator")
    return orchestrator.log.read_text(errors="replace").count('"node_connected"') >= count or None


def _stats() -> dict[int, tuple[int, int]]:
    """Parent and clock ticks of every process, those of its dead children included (proc(5), `stat`)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return found


def _tree(stats: Mapping[int, tuple[int, int]], root: int) -> float:
    children = [pid for pid, (parent, _) in stats.items() if parent == root]
    return stats[root][1] / _TICKS + sum(_tree(stats, child) for child in children)
