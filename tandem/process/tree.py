"""A process and all that it started, read from /proc."""

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """The processes below this one, nearest first; those that end while it looks are left out."""
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in _children(parent)]
        found += level
    return found


def resident_bytes(pid: int) -> int:
    """Main memory that the process and its descendants hold; pages they share count for each."""
    return sum(_resident(each) for each in (pid, *descendants(pid)))


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # it may be gone at any moment, also while its threads are listed
        for path in _PROC.glob(f"{pid}/task/*/children"):
            with suppress(OSError):
                children += map(int, path.read_text().split())
    return children


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
