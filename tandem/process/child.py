"""A child process as an async block: it is watched while the block runs, and gone with its group when it ends."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tandem.clock import Clock, SystemClock
from tandem.process.confinement import LAUNCHERS, NICENESS, Confinement, Limits, command, environment
from tandem.process.tree import descendants, resident_bytes
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import (
    AttemptTimeout,
    ChildCrashed,
    ConfigurationError,
    TandemError,
    TooLarge,
    Unavailable,
)

GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""

_POLL_SECONDS = 0.2
_STDERR_BYTES = 8192
_BUFFER_BYTES = 2**20
_MIB = 2**20
_SHELL_SIGNAL_BASE = 128


class Child:
    """A running child. The caller reads `stdout`; stderr is drained here, and its last 8 KiB are kept."""

    def __init__(
        self, process: Process, transport: asyncio.SubprocessTransport, limits: Limits, confinement: Confinement
    ) -> None:
        assert process.stdout is not None  # noqa: S101 - it is always a pipe
        self.pid = process.pid
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._process = process
        self._transport = transport
        self._limits = limits
        self._sandboxed = confinement.sandbox is Sandbox.BUBBLEWRAP
        self._tail = bytearray()
        self._drained = asyncio.Event()
        self._verdict: TandemError | None = None
        self._swept = False

    @property
    def stderr(self) -> str:
        return self._tail.decode(errors="replace")

    async def wait(self) -> int:
        """The exit status, once it has ended and its group with it.

        Raises AttemptTimeout for a limit on time, TooLarge for one on a file's size, ChildCrashed for one on memory or
        any other signal, Unavailable if the child could not be started at all.
        """
        status = await self._process.wait()
        self._sweep()
        with suppress(TimeoutError):  # one that left the group may hold stderr open
            async with asyncio.timeout(GRACE_SECONDS):
                await self._drained.wait()
        if self._verdict is not None:
            raise self._verdict
        self._raise_for_signal(status)
        if status and self.stderr.startswith(tuple(f"{name}: " for name in LAUNCHERS)):
            raise Unavailable(f"expected the child process to start, got: {self.stderr.strip()}")
        return status

    def _raise_for_signal(self, status: int) -> None:
        number = self._signal_number(status)
        match number:
            case 0:
                return
            case signal.SIGXCPU:
                raise AttemptTimeout(f"expected at most {self._limits.cpu_seconds} s of processor time, got more")
            case signal.SIGXFSZ:
                raise TooLarge(f"expected files of at most {self._limits.file_bytes} bytes, got a larger one")
            case _:
                raise ChildCrashed(f"expected an answer, but the child process was killed by signal {number}")

    def _signal_number(self, status: int) -> int:
        """0 if it ended by itself. bwrap reports a signal as a shell does, by an exit status of 128 and more."""
        if status < 0:
            return -status
        number = status - _SHELL_SIGNAL_BASE
        return number if self._sandboxed and 0 < number < signal.SIGRTMIN - 2 else 0

    async def drain_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - it is always a pipe
        while data := await stream.read(_STDERR_BYTES):
            self._tail += data
            del self._tail[:-_STDERR_BYTES]
        self._drained.set()

    async def watch(self, clock: Clock) -> None:
        """Kills the child when it passes its bounds on memory or wall time; `wait` then raises why."""
        started = clock.monotonic()
        while self._verdict is None:
            await clock.sleep(_POLL_SECONDS)
            self._verdict = self._overrun(clock.monotonic() - started)
        self._signal(signal.SIGKILL)

    def _overrun(self, elapsed: float) -> TandemError | None:
        bound = self._limits.wall_seconds
        if bound is not None and elapsed > bound:
            return AttemptTimeout(f"expected the child process to end within {bound:g} s, and it did not")
        resident = resident_bytes(self.pid) // _MIB
        if resident > self._limits.memory_mib:
            return ChildCrashed(f"expected at most {self._limits.memory_mib} MiB of memory, got {resident} MiB")
        return None

    async def stop(self) -> None:
        """SIGTERM, grace, SIGKILL; returns when the whole group is gone."""
        try:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            self._sweep()
            self._transport.close()

    def _signal(self, number: signal.Signals) -> None:
        """To the group; but in a sandbox to what bwrap started, so that bwrap itself stays to reap it."""
        if self._process.returncode is not None:
            return
        inside = descendants(self.pid) if self._sandboxed else []
        for pid in inside:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if not inside:
            _kill_group(self.pid, number)

    def _sweep(self) -> None:
        """Ends what the child left in its group; once, since the number may be another's later on."""
        if not self._swept:
            self._swept = True
            _kill_group(self.pid, signal.SIGKILL)


def _kill_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def _give_way(leader: int) -> None:
    """Where the kernel shares the processor out by sessions, `nice` counts within one only (sched(7), autogroup)."""
    with suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text(str(NICENESS))


@asynccontextmanager
async def spawn(
    argv: Sequence[str],
    *,
    limits: Limits,
    confinement: Confinement,
    clock: Clock,
    stdin: bool = False,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Child]:
    """Starts a confined child in a session of its own; leaving the block, however it is left, ends all of it.

    It also dies with this process, even if that is killed. Without `stdin` it reads end-of-file there. Its working
    folder is `/`, so pass absolute paths. Descriptors in `pass_fds` keep their numbers in it.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit=_BUFFER_BYTES, loop=loop),
        *command(argv, limits, confinement),
        stdin=PIPE if stdin else DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        cwd="/",
        env=environment(confinement),
        pass_fds=pass_fds,
    )
    if limits.background:
        _give_way(transport.get_pid())
    child = Child(Process(transport, protocol, loop), transport, limits, confinement)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child.drain_stderr())
            watchdog = tasks.create_task(child.watch(clock))
            try:
                yield child
            finally:
                watchdog.cancel()
                await child.stop()
    except BaseExceptionGroup as group:
        # The two tasks raise nothing, so what is in the group is the one error of the caller's own block.
        only = group.exceptions[0]
        raise only from only.__cause__


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended and what it said; `stderr` holds its last 8 KiB."""

    status: int
    stdout: bytes
    stderr: str


async def run(
    argv: Sequence[str], *, limits: Limits, confinement: Confinement, clock: Clock, max_output: int = 2**20
) -> Finished:
    """Runs a child to its end. Raises as `Child.wait`, and TooLarge if it writes over `max_output` bytes."""
    async with spawn(argv, limits=limits, confinement=confinement, clock=clock) as child:
        output = bytearray()
        while data := await child.stdout.read(_BUFFER_BYTES):
            output += data
            if len(output) > max_output:
                raise TooLarge(f"expected at most {max_output} bytes from the child process, got more")
        status = await child.wait()
        return Finished(status, bytes(output), child.stderr)


async def detect_sandbox() -> Sandbox:
    """The strongest confinement that works here, found by a trial."""
    for sandbox in (Sandbox.BUBBLEWRAP, Sandbox.LANDLOCK):
        if await works(sandbox):
            return sandbox
    return Sandbox.LIMITS


async def works(sandbox: Sandbox) -> bool:
    limits = Limits(memory_mib=64, wall_seconds=5)
    try:
        trial = await run(["/usr/bin/true"], limits=limits, confinement=Confinement(sandbox), clock=SystemClock())
    except (ConfigurationError, Unavailable, ChildCrashed, AttemptTimeout):
        return False
    return trial.status == 0
