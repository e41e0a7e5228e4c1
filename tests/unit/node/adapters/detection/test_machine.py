"""What this process may use of the machine."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from node.adapters.detection.machine import memory_mib, millicores, read_machine

CORES = len(os.sched_getaffinity(0)) * 1000
V2 = "0::/a/b\n"
V1 = "4:memory:/a\n2:cpu,cpuacct:/a\n1:name=systemd:/\n0::/\n"


def files(root: Path, contents: Mapping[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "name", "text", "expected"),
    [
        (V2, "a/b/cpu.max", "50000 100000\n", 500),
        (V2, "a/cpu.max", "150 1000\n", 150),
        (V2, "a/b/cpu.max", "max 100000\n", CORES),
        (V2, "a/b/cpu.max", "nonsense", CORES),
        (V2, "a/b/cpu.max", "99900000 100000\n", CORES),
        (V1, "cpu,cpuacct/a/cpu.cfs_quota_us", "25000\n", 250),
        (V1, "cpu,cpuacct/cpu.cfs_quota_us", "-1\n", CORES),
    ],
)
def test_cores_are_bounded_by_the_narrowest_quota(
    tmp_path: Path, cgroup: str, name: str, text: str, expected: int
) -> None:
    period = {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"} if cgroup == V1 else {}
    root = files(tmp_path, {"proc/self/cgroup": cgroup, f"sys/fs/cgroup/{name}": text, **period})
    assert millicores(root) == expected


@pytest.mark.parametrize(
    ("cgroup", "name", "text", "expected"),
    [
        (V2, "a/b/memory.max", f"{100 * 2**20}\n", 100),
        (V2, "a/memory.max", f"{50 * 2**20}\n", 50),
        (V1, "memory/a/memory.limit_in_bytes", f"{70 * 2**20}\n", 70),
    ],
)
def test_memory_is_bounded_by_the_narrowest_limit(
    tmp_path: Path, cgroup: str, name: str, text: str, expected: int
) -> None:
    assert memory_mib(files(tmp_path, {"proc/self/cgroup": cgroup, f"sys/fs/cgroup/{name}": text})) == expected


@pytest.mark.parametrize("contents", [{}, {"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/memory.max": "max\n"}])
def test_without_bounds_all_of_the_machine_counts(tmp_path: Path, contents: Mapping[str, str]) -> None:
    root = files(tmp_path, contents)
    assert millicores(root) == CORES
    assert memory_mib(root) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def test_this_machine_is_read_with_or_without_a_driver() -> None:
    machine = read_machine()
    assert machine.cpu
    assert 0 < machine.millicores <= CORES
    assert machine.memory_mib > 0
    assert machine.driver is not None or not machine.gpus
