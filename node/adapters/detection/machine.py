"""The hardware as this process may use it: cores, memory, GPUs."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pynvml

_MIB = 2**20
_MILLICORES = 1000
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Machine:
    """`cpu` is the processor's name, `driver` the version of NVIDIA's or None if none answers."""

    cpu: str
    millicores: int
    memory_mib: int
    gpus: tuple[Gpu, ...]
    driver: str | None


def read_machine() -> Machine:
    driver, gpus = read_gpus()
    return Machine(_processor(), millicores(), memory_mib(), gpus, driver)


def read_gpus() -> tuple[str | None, tuple[Gpu, ...]]:
    """The driver's version and the GPUs; a machine without either is none the worse."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return _text(pynvml.nvmlSystemGetDriverVersion()), tuple(map(_gpu, handles))
    except pynvml.NVMLError:
        return None, ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    return Gpu(_text(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def millicores(root: Path = _ROOT) -> int:
    """Thousandths of a core: those that the process may run on, or the quota of its cgroup if that is less."""
    cores = len(os.sched_getaffinity(0))
    quotas = [_quota(folder) for folder in _cgroups(root, "cpu")]
    return max(1, int(min([cores, *quotas]) * _MILLICORES))


def memory_mib(root: Path = _ROOT) -> int:
    """MiB of main memory, or the bound of the cgroup if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    names = ("memory.max", "memory.limit_in_bytes")
    bounds = [_number(folder / name) for folder in _cgroups(root, "memory") for name in names]
    return int(min([total, *bounds])) // _MIB


def _quota(folder: Path) -> float:
    """Cores, by either version of cgroups; infinity where there is no bound."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if 0 < quota_us < math.inf and 0 < period_us < math.inf else math.inf


def _number(file: Path) -> float:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return math.inf


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of all above it, since the narrowest bound holds."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in {"", controller} or controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            inner = mount / path.strip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount))


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().splitlines()
    return []


def _processor() -> str:
    lines = _lines(Path("/proc/cpuinfo"))
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine
