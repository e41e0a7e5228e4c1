"""The demo, as `make demo` runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_the_demo_shows_all_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.run"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("1280x720", "854x480", "640x360", "node-1", "winners redeemed", "balance after"):
        assert shown in done.stdout
    assert done.stdout.count("144") >= 3
    assert not list(tmp_path.iterdir())
    assert not processes_of(tmp_path)


def processes_of(folder: Path) -> list[str]:
    """Commands of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (process / "cwd").readlink().parents:
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is another user's
            continue
    return found
