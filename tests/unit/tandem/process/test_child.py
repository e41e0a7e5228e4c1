"""Children that behave, and children that do not."""

import asyncio
import json
import os
import select
import signal
import sys
import uuid
from pathlib import Path

import pytest

from tandem.clock import SystemClock
from tandem.process import (
    Confinement,
    Finished,
    Limits,
    child,
    detect_sandbox,
    landlock,
    python_runtime,
    run,
    spawn,
    works,
)
from tandem.process.tree import descendants, resident_bytes
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import AttemptTimeout, ChildCrashed, TooLarge, Unavailable

CLOCK = SystemClock()
LIMITS = Limits(memory_mib=256, wall_seconds=30)
FORKED = "import os, time; os.fork(); print('up', flush=True); time.sleep(1000)"
PARENT = """
import asyncio, sys
from tandem.clock import SystemClock
from tandem.process import Confinement, Limits, python_runtime, spawn
from tandem.protocol.capacity import Sandbox

async def main():
    argv = [sys.executable, "-I", "-B", "-c", "import time; print('up', flush=True); time.sleep(1000)", sys.argv[2]]
    confinement = Confinement(Sandbox(sys.argv[1]), readable=python_runtime())
    async with spawn(argv, limits=Limits(256, None), confinement=confinement, clock=SystemClock()) as child:
        print((await child.stdout.readline()).decode(), flush=True)
        await child.wait()

asyncio.run(main())
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-B", "-c", code, *arguments]


async def finish(argv: list[str], sandbox: Sandbox, *writable: Path, limits: Limits = LIMITS) -> Finished:
    confinement = Confinement(sandbox, readable=python_runtime(), writable=writable)
    return await run(argv, limits=limits, confinement=confinement, clock=CLOCK, max_output=2**20)


def processes_with(token: str) -> list[int]:
    """The live processes that have the token among their arguments; a zombie has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def die(pids: list[int]) -> bool:
    """Whether all of them end within a few seconds."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([handle], [], [], 5)[0]
        os.close(handle)
        if not ended:
            return False
    return True


@pytest.fixture
def token() -> str:
    return uuid.uuid4().hex


async def test_output_and_status_come_back(sandbox: Sandbox) -> None:
    done = await finish(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], sandbox)
    assert done == Finished(3, b"out\n", "err\n")


async def test_a_child_can_be_talked_to(sandbox: Sandbox) -> None:
    async with spawn(["/bin/cat"], limits=LIMITS, confinement=Confinement(sandbox), clock=CLOCK, stdin=True) as cat:
        assert cat.stdin is not None
        cat.stdin.write(b"hello\n")
        assert await cat.stdout.readline() == b"hello\n"
        cat.stdin.close()
        assert await cat.wait() == 0


async def test_a_flood_on_stderr_is_drained_and_its_tail_kept(sandbox: Sandbox) -> None:
    done = await finish(python("import sys; sys.stderr.write('x' * 2**20 + 'end')"), sandbox)
    assert done.status == 0
    assert len(done.stderr) == 8192
    assert done.stderr.endswith("xend")


async def test_output_over_the_bound_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(TooLarge, match="1048576 bytes"):
        await finish(["/usr/bin/yes"], sandbox)


async def test_the_parents_variables_are_not_seen(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KEY", "secret")
    assert b"secret" not in (await finish(["/usr/bin/env"], sandbox)).stdout


async def test_only_the_named_files_are_there(tmp_path: Path, sandbox: Sandbox) -> None:
    if sandbox is Sandbox.LIMITS:
        pytest.skip("limits alone hide no file")
    hidden, folder = tmp_path / "hidden", tmp_path / "out"
    hidden.write_text("secret")
    folder.mkdir()
    script = (
        f"cat {hidden} /etc/shadow; echo new > {folder}/file; echo x > /file; echo x > /dev/shm/file; head /etc/hosts"
    )
    done = await finish(["/bin/sh", "-c", script], sandbox, folder)
    assert done.stdout == b""
    if sandbox is Sandbox.LANDLOCK:
        assert done.stderr.count("ermission denied") == 5
    else:
        assert done.stderr.count("No such file") == 3
        assert done.stderr.count("Read-only file system") == 2
    assert (folder / "file").read_text() == "new\n"


async def test_there_is_no_network(sandbox: Sandbox) -> None:
    if sandbox is Sandbox.LIMITS:
        pytest.skip("limits alone close no network")
    reached = asyncio.Event()
    server = await asyncio.start_server(lambda _reader, _writer: reached.set(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        done = await finish(python(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"), sandbox)
    assert ("denied" if sandbox is Sandbox.LANDLOCK else "refused") in done.stderr
    assert not reached.is_set()


async def test_a_memory_bomb_is_killed(sandbox: Sandbox, token: str) -> None:
    bomb = "import time; hold = [b'x' * 2**20 for _ in range(400)]; time.sleep(1000)"
    with pytest.raises(ChildCrashed, match=r"at most 96 MiB of memory, got \d+ MiB"):
        await finish(python(bomb, token), sandbox, limits=Limits(memory_mib=96, wall_seconds=60))
    assert die(processes_with(token))


async def test_memory_is_summed_over_the_processes(sandbox: Sandbox) -> None:
    bomb = "import os, time; os.fork(); os.fork(); hold = b'x' * (50 * 2**20); time.sleep(1000)"
    with pytest.raises(ChildCrashed, match="at most 128 MiB"):
        await finish(python(bomb), sandbox, limits=Limits(memory_mib=128, wall_seconds=60))


async def test_a_child_that_hangs_is_killed_with_all_it_started(sandbox: Sandbox, token: str) -> None:
    with pytest.raises(AttemptTimeout, match=r"within 0\.5 s"):
        await finish(python(FORKED, token), sandbox, limits=Limits(memory_mib=256, wall_seconds=0.5))
    assert die(processes_with(token))


async def test_a_child_that_spins_is_stopped(sandbox: Sandbox) -> None:
    with pytest.raises(AttemptTimeout, match="1 s of processor time"):
        await finish(python("while True: pass"), sandbox, limits=Limits(256, wall_seconds=60, cpu_seconds=1))


async def test_a_file_that_grows_too_large_is_stopped(sandbox: Sandbox, tmp_path: Path) -> None:
    argv = ["/usr/bin/dd", "if=/dev/zero", f"of={tmp_path}/file", "bs=4096", "count=100"]
    with pytest.raises(TooLarge, match="at most 8192 bytes"):
        await finish(argv, sandbox, tmp_path, limits=Limits(256, wall_seconds=30, file_bytes=8192))
    assert (tmp_path / "file").stat().st_size == 8192


async def test_a_crash_is_told_from_an_exit(sandbox: Sandbox) -> None:
    with pytest.raises(ChildCrashed, match="signal 11"):
        await finish(python("import os; os.kill(os.getpid(), 11)"), sandbox)


async def test_a_program_that_is_not_there_is_not_the_inputs_fault(sandbox: Sandbox) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        await finish(["/usr/bin/nothing-of-this-name"], sandbox)


async def test_an_error_in_the_block_passes_as_it_is_and_ends_the_child(sandbox: Sandbox, token: str) -> None:
    confinement = Confinement(sandbox, readable=python_runtime())

    async def fail() -> None:
        async with spawn(python(FORKED, token), limits=LIMITS, confinement=confinement, clock=CLOCK) as running:
            await running.stdout.readline()
            assert len(processes_with(token)) >= 2
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()
    assert die(processes_with(token))


async def test_cancellation_ends_the_group(sandbox: Sandbox, token: str) -> None:
    confinement, up = Confinement(sandbox, readable=python_runtime()), asyncio.Event()

    async def work() -> None:
        async with spawn(python(FORKED, token), limits=LIMITS, confinement=confinement, clock=CLOCK) as running:
            await running.stdout.readline()
            up.set()
            await running.wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work())
        await up.wait()
        task.cancel()
    assert task.cancelled()
    assert die(processes_with(token))


async def test_one_that_ignores_the_request_to_end_is_killed(
    sandbox: Sandbox, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.2)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)"
    confinement = Confinement(sandbox, readable=python_runtime())
    async with spawn(python(stubborn, token), limits=LIMITS, confinement=confinement, clock=CLOCK) as running:
        await running.stdout.readline()
    assert die(processes_with(token))


async def test_the_child_dies_with_a_parent_that_is_killed(sandbox: Sandbox, token: str) -> None:
    parent = await asyncio.create_subprocess_exec(*python(PARENT, sandbox, token), stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"up\n"
    assert descendants(parent.pid)
    assert resident_bytes(parent.pid) > 2**20
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    assert die(processes_with(token))


@pytest.mark.parametrize(
    ("withheld", "left"), [(("bwrap",), Sandbox.LANDLOCK), (("bwrap", "landlock"), Sandbox.LIMITS)]
)
async def test_the_strongest_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, withheld: tuple[str, ...], left: Sandbox
) -> None:
    if not await works(left):
        pytest.skip(f"{left} does not work here")
    for name in ("setpriv", "prlimit"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    if "landlock" in withheld:
        monkeypatch.setattr(landlock, "__file__", str(tmp_path / "none.py"))
    assert await detect_sandbox() is left


ESCAPES = """
import ctypes, json, os, signal, socket, sys
outside, server, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

tries = {
    "read": lambda: open(outside).read(),
    "write": lambda: open(outside, "w"),
    "list": lambda: os.listdir(os.path.dirname(outside)),
    "remove": lambda: os.unlink(outside),
    "empty": lambda: os.truncate(outside, 0),
    "mode": lambda: os.chmod(outside, 0o777),
    "owner": lambda: os.chown(outside, 1, 1),
    "attribute": lambda: os.setxattr(outside, "user.x", b"1"),
    "secrets of the parent": lambda: open(f"/proc/{parent}/environ").read(),
    "tcp": lambda: socket.socket(),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "raw": lambda: socket.socket(type=socket.SOCK_RAW, proto=1),
    "unix": lambda: socket.socket(socket.AF_UNIX).connect(server),
    "netlink": lambda: socket.socket(socket.AF_NETLINK),
    "io_uring": lambda: call(425, 1, None),
    "signal": lambda: os.kill(parent, 0),
}
done = {}
for name, attempt in tries.items():
    try:
        attempt()
    except OSError as error:
        done[name] = type(error).__name__
    else:
        done[name] = "open"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([done, int(status["CapEff"], 16) | int(status["CapPrm"], 16), status["Seccomp"].strip()]))
"""


async def test_landlock_closes_what_it_says(tmp_path: Path) -> None:
    if not await works(Sandbox.LANDLOCK):
        pytest.skip("landlock does not work here")
    outside, door = tmp_path / "outside", tmp_path / "door"
    outside.write_text("secret")
    async with await asyncio.start_unix_server(lambda _reader, _writer: None, door):
        done = await finish(python(ESCAPES, str(outside), str(door), str(os.getpid())), Sandbox.LANDLOCK)
    assert done.stderr == ""
    tries, capabilities, seccomp = json.loads(done.stdout)
    left = {name for name, outcome in tries.items() if outcome != "PermissionError"}
    assert left == (set() if landlock.abi() >= 6 else {"signal"})
    assert (capabilities, seccomp, outside.read_text()) == (0, "2", "secret")


async def test_landlock_lets_the_child_work_in_its_own_folder(tmp_path: Path) -> None:
    if not await works(Sandbox.LANDLOCK):
        pytest.skip("landlock does not work here")
    given = tmp_path / "given"
    given.write_text("input")
    script = (
        f"cd {tmp_path}/out && mkdir a b && cat {given} > a/x && mv a/x b/y && rmdir a && ln -s y b/z && "
        f"cat b/z && rm b/z && : > b/y && echo no > {given}"
    )
    (tmp_path / "out").mkdir()
    confinement = Confinement(Sandbox.LANDLOCK, readable=(given,), writable=(tmp_path / "out",))
    done = await run(["/bin/sh", "-c", script], limits=LIMITS, confinement=confinement, clock=CLOCK)
    assert done.stdout == b"input"
    assert "denied" in done.stderr
    assert (given.read_text(), (tmp_path / "out" / "b" / "y").read_text()) == ("input", "")
