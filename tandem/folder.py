"""A process's own folder: held by one process at a time, its secrets written whole or not at all."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tandem.protocol.errors import ConfigurationError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; the lock goes with the process, however it ends.

    Raises ConfigurationError if it cannot be made, or another process holds it.
    """
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"expected {folder} to belong to this process, and another runs on it; stop that one, or give each a "
                "folder of its own"
            ) from error
        yield


def _lock_file(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"data: expected a folder to write in, got {folder}: {error.strerror}; choose another"
        ) from error


def write_secret(path: Path, content: bytes) -> None:
    """A file that its owner alone may read; whatever ends the process, it is there whole or not at all.

    Raises FileExistsError rather than take the place of another.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, it never replaces
    finally:
        partial.unlink()
