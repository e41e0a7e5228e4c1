import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.folder import held, write_secret
from tandem.protocol.errors import ConfigurationError


def test_a_folder_is_held_by_one_process_until_that_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    code = "import sys; from pathlib import Path; from tandem.folder import held; lock = held(Path(sys.argv[1]))"
    code += "; lock.__enter__(); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(ConfigurationError, match="another runs on it"), held(folder):
            pytest.fail("two hold the folder")
        other.kill()
        other.wait()
        with held(folder):
            pass


def test_a_secret_is_private_and_takes_nobodys_place(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_secret(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_that_was_cut_short_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):  # noqa: PT011 - that one
        write_secret(tmp_path / "secret", b"one")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="choose another"), held(tmp_path / "file" / "data"):
        pass
