"""The demo's processes: each in a group of its own, its output in a file, none left behind."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from rich.console import Console

T = TypeVar("T")

_TAIL_LINES = 15
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.1


class DemoFailed(Exception):
    """A step did not do what the demo needs."""


@dataclass(frozen=True, slots=True)
class Running:
    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


class Processes:
    """Commands as a user would type them, in a folder of their own; leaving the `with` ends and removes it all.

    `path` holds the folders of programs to be found before the system's.
    """

    def __init__(self, path: Sequence[Path], console: Console) -> None:
        self.console = console
        self.folder = Path(tempfile.mkdtemp(prefix="tandem-demo-"))
        self._left = False
        self.running: list[Running] = []
        # What the user's shell says of other orchestrators and nodes is not meant for these.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        self._environment = {**kept, "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if not self._left:
            shutil.rmtree(self.folder)

    def run(self, *argv: str) -> str:
        """Runs a command to its end; its output."""
        return self.run_together(argv)[0]

    def run_together(self, *commands: Sequence[str]) -> list[str]:
        """Runs commands at the same time; their outputs."""
        started = [self._open(argv, subprocess.PIPE) for argv in commands]
        return [self._finish(argv, process) for argv, process in zip(commands, started, strict=True)]

    def start(self, name: str, *argv: str) -> Running:
        """Starts a command that goes on; its output goes to `NAME.log`."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            started = Running(name, self._open(argv, output.fileno()), log)
        self.running.append(started)
        return started

    def wait_for(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """Looks until there is something; fails if a process ends or the time is over."""
        until = time.monotonic() + seconds
        while (found := look()) is None:
            self.check()
            if time.monotonic() > until:
                raise DemoFailed(f"expected {what} within {seconds:.0f} seconds\n{self.logs()}")
            time.sleep(_POLL_SECONDS)
        return found

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {each.name}\n{each.tail()}" for each in self.running)

    def ended(self) -> str:
        """Of the processes that ended by themselves, how and the ends of their logs."""
        gone = [each for each in self.running if each.process.poll() is not None]
        return "\n".join(f"{each.name} ended by itself ({each.process.returncode}):\n{each.tail()}" for each in gone)

    def check(self) -> None:
        if self.ended():
            raise DemoFailed("expected all processes to go on, and one did not")

    def stop(self) -> None:
        """Asks all to end, last started first, and kills the group of each that does not."""
        for each in reversed(self.running):
            _signal(each.process, signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        for each in reversed(self.running):
            try:
                each.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.console.print(f"{each.name} does not end: killing it", style="yellow")
            _signal(each.process, signal.SIGKILL)
            each.process.wait()
        self.running.clear()

    def leave(self) -> list[int]:
        """Lets all run on, and leaves the folder; the process groups."""
        self._left = True
        groups = [each.process.pid for each in self.running]
        self.running.clear()
        return groups

    def _open(self, argv: Sequence[str], output: int) -> "subprocess.Popen[bytes]":
        self.console.print(f"$ {shlex.join(argv)}", style="dim", highlight=False, soft_wrap=True)
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _finish(self, argv: Sequence[str], process: "subprocess.Popen[bytes]") -> str:
        try:
            output = process.communicate()[0].decode(errors="replace").strip()
        finally:
            _signal(process, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise DemoFailed(f"`{shlex.join(argv)}` failed ({process.returncode}):\n{output}")
        return output


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the whole group, which may outlive its leader."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
