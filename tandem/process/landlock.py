"""A launcher like `prlimit`: has the kernel hold this process to some files and no sockets, then becomes the program.

It is run as a file of its own, so that it costs the start of a bare interpreter. Landlock (`linux/landlock.h`,
landlock(7)) opens the named files alone; from ABI 4 it closes TCP, from ABI 6 signals to other processes and abstract
sockets. What it leaves open, and a filter of system calls (seccomp(2)) closes: sockets of every kind, which io_uring
would make too; other rights and owners for files that can be named though not opened; memory and queues that outlive
processes. All capabilities are given up before, so that root is nobody special.

It does not hide that files are there, their sizes and times. Before ABI 6 signals reach all processes of the same user;
before ABI 3 a file that may be read can be emptied by opening it with O_TRUNC, if its mode lets this user write to it.
"""

import ctypes
import json
import os
import platform
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_CAPABILITY_VERSION = 0x20080522

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = (_WRITE_FILE | _READ_FILE | _READ_DIR | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE) | (
    _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM | _REFER
)
_DEVICE = _WRITE_FILE | _READ_FILE | _READ_DIR | _IOCTL_DEV
RIGHTS = {"read": _READ, "write": _WRITE, "device": _DEVICE, "list": _READ_DIR}

_RIGHTS_KNOWN = ((5, 16), (3, 15), (2, 14), (1, 13))
"""From which ABI on so many rights to files are known."""
_TCP_FROM, _SCOPES_FROM = 4, 6
_TCP, _SCOPES = 0b11, 0b11

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_DENIED = {
    # socket, io_uring_setup; truncate, Landlock's since ABI 3; fchmod, fchmodat, fchmodat2, fchown, fchownat;
    # setxattr and removexattr, 3 of each; shmget, shmat, semget, msgget, mq_open; of old also chmod, chown, lchown
    "x86_64": (41, 425, 76, 91, 268, 452, 93, 260, 188, 189, 190, 197, 198, 199, 29, 30, 64, 68, 240, 90, 92, 94),
    "aarch64": (198, 425, 45, 52, 53, 452, 55, 54, 5, 6, 7, 14, 15, 16, 194, 196, 190, 186, 180),
}
_DENIED_EVERYWHERE = (463, 466, 469)  # setxattrat, removexattrat, file_setattr
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 13  # EACCES

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The version of Landlock that this kernel has, 0 for none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def confine(paths: dict[str, Sequence[str]]) -> None:
    """Holds this process, and all that it starts, to these paths by the names of `RIGHTS`. Raises OSError."""
    _checked(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _drop_capabilities()
    _restrict_files(paths)
    _filter_calls(platform.machine())


def _drop_capabilities() -> None:
    """With no_new_privs, an exec as root does not bring them back."""
    header, none = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _checked(_libc.capset(header, none), "capset")


def _restrict_files(paths: dict[str, Sequence[str]]) -> None:
    version = abi()
    handled = next(((1 << count) - 1 for since, count in _RIGHTS_KNOWN if version >= since), 0)
    tcp, scopes = _TCP * (version >= _TCP_FROM), _SCOPES * (version >= _SCOPES_FROM)
    attributes = struct.pack("QQQ", handled, tcp, scopes)
    rules = _checked(
        _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
    )
    for rights, each in ((handled & RIGHTS[kind], path) for kind, named in paths.items() for path in named):
        _allow(rules, each, rights)
    _checked(_libc.syscall(_RESTRICT_SELF, rules, 0), "landlock_restrict_self")
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(opened).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, opened)
    _checked(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0), f"landlock_add_rule for {path}")
    os.close(opened)


def _filter_calls(machine: str) -> None:
    if machine not in _ARCHITECTURES:
        raise OSError(f"expected one of {', '.join(_ARCHITECTURES)}, got a {machine}")
    code = b"".join(_program(_ARCHITECTURES[machine], (*_DENIED[machine], *_DENIED_EVERYWHERE)))
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    _checked(_libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0), "seccomp")


def _program(architecture: int, denied: Sequence[int]) -> Iterable[bytes]:
    """Refuses the calls, and all calls of another architecture; jumps are relative to the next instruction."""
    refuse = len(denied) + 1
    yield struct.pack("HBBI", _LOAD, 0, 0, 4)
    yield struct.pack("HBBI", _EQUAL, 0, refuse + 2, architecture)
    yield struct.pack("HBBI", _LOAD, 0, 0, 0)
    yield struct.pack("HBBI", _AT_LEAST, refuse, 0, _X32)
    for index, number in enumerate(denied):
        yield struct.pack("HBBI", _EQUAL, len(denied) - index, 0, number)
    yield struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)
    yield struct.pack("HBBI", _RETURN, 0, 0, _REFUSE)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


if __name__ == "__main__":
    try:
        confine(json.loads(sys.argv[1]))
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by the interpreter, and an exec would keep that
            signal.signal(ignored, signal.SIG_DFL)
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the caller's words, as they are
    except OSError as error:
        sys.exit(f"landlock: {error}")
