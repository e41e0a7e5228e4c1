"""What a child may see and use, and the command line that holds it to that.

Everything is done by small programs in front of the child's own: `nice` lets others go first, `setpriv` has the kernel
kill the child when its parent dies, `prlimit` sets resource limits, and `bwrap` builds the sandbox where the system
allows one; where it does not, our own `landlock.py` closes what the kernel lets it close. Each replaces itself by the
next, so they cost some milliseconds and no extra process; doing the same in a `preexec_fn` would run Python between
fork and exec, which can deadlock a process that has threads.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tandem
from tandem.process import landlock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ConfigurationError

LAUNCHERS = ("nice", "setpriv", "prlimit", "bwrap", "landlock")
NICENESS = 10
"""Of a child in the background: by this it gets about a tenth of what one beside it gets of a core that both want."""

_TOP_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu")
_GPU_FILES = ("/sys", "/etc/OpenCL", "/etc/vulkan")
_GPU_DEVICES = ("nvidia*", "dri")
_PROC_FILES = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/sys/kernel")
_GPU_PROC_FILES = ("/proc/driver", "/proc/devices", "/proc/modules")
_SOURCES = ("/dev/random", "/dev/urandom")
_SINKS = ("/dev/null", "/dev/zero", "/dev/full")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
_GPU_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one child and all that it starts. `cpu_seconds` and `file_bytes` hold for each process and file."""

    memory_mib: int
    """Resident, summed over its processes; a limit on address space would starve x264 and break CUDA."""
    wall_seconds: float | None
    """None: a worker that lives until its block ends."""
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    background: bool = False
    """It gives way to others that want the processor."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """The files a child may touch; it has no network. With `Sandbox.LIMITS` alone nothing enforces either.

    With `Sandbox.LANDLOCK` it can still see that other files are there, though not open them.
    """

    sandbox: Sandbox
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    gpu: bool = False


def command(argv: Sequence[str], limits: Limits, confinement: Confinement) -> list[str]:
    """The whole command line; raises ConfigurationError if a program that it needs is missing."""
    head = [_program("nice"), "-n", str(NICENESS)] if limits.background else []
    head += [_program("setpriv"), "--pdeathsig", "KILL", "--", _program("prlimit"), *_resource_limits(limits), "--"]
    match confinement.sandbox:
        case Sandbox.BUBBLEWRAP:
            return [*head, _program("bwrap"), *_namespaces(confinement), "--", *argv]
        case Sandbox.LANDLOCK:
            launcher = [sys.executable, "-I", "-S", "-B", landlock.__file__]
            return [*head, *launcher, json.dumps(_rules(confinement)), *argv]
        case Sandbox.LIMITS:
            return [*head, _program("setpriv"), "--no-new-privs", "--", *argv]


def environment(confinement: Confinement) -> Mapping[str, str]:
    """A child sees none of the parent's variables, which may hold keys, but those that name the GPU."""
    names = _GPU_ENVIRONMENT if confinement.gpu else ()
    return _ENVIRONMENT | {name: os.environ[name] for name in names if name in os.environ}


def python_command(module: str, *arguments: str) -> list[str]:
    """Runs a module with this interpreter, apart from the user's own site and variables."""
    return [sys.executable, "-I", "-B", "-m", module, *arguments]


def python_runtime(*packages: ModuleType) -> tuple[Path, ...]:
    """The folders that this interpreter, its libraries, `tandem` and the given packages are read from."""
    interpreter = Path(sys.executable).resolve().parent.parent
    folders = [Path(folder) for package in (tandem, *packages) for folder in package.__path__]
    return tuple(dict.fromkeys((Path(sys.base_prefix), interpreter, Path(sys.prefix), *folders)))


_PACKAGES = {"bwrap": "bubblewrap", "nice": "coreutils"}


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ConfigurationError(
            f"expected the program `{name}` to run child processes safely, found none; install the package "
            f"{_PACKAGES.get(name, 'util-linux')}"
        )
    return path


def _resource_limits(limits: Limits) -> list[str]:
    options = ["--core=0"]
    if limits.cpu_seconds is not None:
        options.append(f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 5}")
    if limits.file_bytes is not None:
        options.append(f"--fsize={limits.file_bytes}")
    return options


def _namespaces(confinement: Confinement) -> list[str]:
    # No --new-session: the child is in a session without a terminal already, and stays in the group that is signalled.
    # Root and /dev are made read-only, since they are memory that the watchdog would not see.
    return [
        *("--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
        *_bind("--ro-bind", ["/usr"]),
        *_top_folders(),
        *_bind("--ro-bind-try", _SYSTEM_FILES),
        *("--proc", "/proc", "--dev", "/dev"),
        *(_gpu() if confinement.gpu else ()),
        *_bind("--ro-bind", confinement.readable),
        *_bind("--bind", confinement.writable),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"),
    ]


def _rules(confinement: Confinement) -> dict[str, list[str]]:
    """Of what the system and the hardware may or may not have, what is there."""
    gpu = confinement.gpu
    read = [
        "/usr",
        *_TOP_FOLDERS,
        *_SYSTEM_FILES,
        *_PROC_FILES,
        *_SOURCES,
        *((*_GPU_FILES, *_GPU_PROC_FILES) if gpu else ()),
    ]
    devices = [*_SINKS, *(map(str, _gpu_devices()) if gpu else ())]
    return {
        "read": [*filter(os.path.exists, read), *map(str, confinement.readable)],
        "write": [*map(str, confinement.writable)],
        "device": [*filter(os.path.exists, devices)],
        "list": [str(Path(folder).parent) for folder in tandem.__path__],  # to be found there by the interpreter
    }


def _bind(option: str, paths: Iterable[Path | str]) -> list[str]:
    return [word for path in paths for word in (option, str(path), str(path))]


def _top_folders() -> list[str]:
    """Most systems keep /lib and its like as links into /usr."""
    words: list[str] = []
    for folder in map(Path, _TOP_FOLDERS):
        if folder.is_symlink():
            words += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            words += _bind("--ro-bind", [folder])
    return words


def _gpu() -> list[str]:
    return [*_bind("--ro-bind-try", _GPU_FILES), *_bind("--dev-bind-try", _gpu_devices())]


def _gpu_devices() -> list[Path]:
    return sorted(path for pattern in _GPU_DEVICES for path in Path("/dev").glob(pattern))
