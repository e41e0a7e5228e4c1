"""What the benchmarks share: a market of one node, started by the commands that a user types, and what it costs."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console

from demo.marketplace import PROGRAMS, Marketplace, deploy, start_chain, start_orchestrator
from demo.processes import Processes, Running

_PR_SET_CHILD_SUBREAPER = 36
_PERIOD_US = 100_000
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
def market(*node_flags: str, count: int = 1, share: float | None = None) -> Iterator[Market]:
    """With a `share` each node is held to one core, and to so much of it. Leaving it ends all, also by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # Orphans come to this process, which never waits for them: so they stay in /proc with what they used (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with ExitStack() as limits, Processes(PROGRAMS, Console(quiet=True)) as processes:
        marketplace = deploy(processes, start_chain(processes), [f"node-{index}" for index in range(1, count + 1)])
        start_orchestrator(marketplace)
        cores = sorted(os.sched_getaffinity(0))
        nodes = []
        for name, core in zip(marketplace.nodes, cores * count, strict=False):
            command = marketplace.node(name, "run", "--capacity.gpu", "false", *node_flags)
            nodes.append(processes.start(name, *(command if share is None else _pinned(core, command))))
            # One after the other, so that each measures its speed alone.
            processes.wait_for(f"{name} to measure and connect", partial(_connected, processes, len(nodes)), 120.0)
        for node in nodes if share is not None and share < 1 else ():
            limits.enter_context(_held_to(node.process.pid, share or 1.0))
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


@contextmanager
def _held_to(pid: int, share: float) -> Iterator[None]:
    """A part of a core for a process and all that it starts, by a control group (version 1), which takes root."""
    group = Path(f"/sys/fs/cgroup/cpu/tandem-bench-{pid}")
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        group.rmdir()


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
