"""Which ffmpeg is taken."""

from pathlib import Path

import imageio_ffmpeg
import pytest

from node.adapters.ffmpeg import binary, find_ffmpeg
from tandem.clock import SystemClock
from tandem.protocol.errors import ConfigurationError

CLOCK = SystemClock()
FILTERS = " ".join(sorted(binary._NEEDED["filters"]))


def imposter(folder: Path, version: str, filters: str = FILTERS) -> Path:
    """A program that answers as an ffmpeg of that version."""
    path = folder / "ffmpeg"
    tables = {kind: " ".join(names) for kind, names in binary._NEEDED.items()} | {"filters": filters}
    loops = [f'{kind}) for each in {names}; do echo " .. $each x"; done;;' for kind, names in tables.items()]
    script = f"case ${{2#-}} in version) echo 'ffmpeg version {version} built';; {' '.join(loops)} esac"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_the_packaged_one_will_do() -> None:
    found = await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK)
    assert found.version[0] in "n123456789"


@pytest.mark.parametrize("version", ["5.1.9-0+deb12u1", "n7.1", "10.0", "N-118000-gabcdef"])
async def test_the_systems_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = imposter(tmp_path, version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = await find_ffmpeg(CLOCK)
    assert (found.path, found.version) == (path, version)


@pytest.mark.parametrize(
    ("version", "filters", "complaint"), [("4.4.2", FILTERS, "too old"), ("7.1", "split", "lacks the filters aformat")]
)
async def test_one_that_will_not_do_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, filters: str, complaint: str
) -> None:
    path = imposter(tmp_path, version, filters)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (await find_ffmpeg(CLOCK)).path == Path(imageio_ffmpeg.get_ffmpeg_exe())
    with pytest.raises(ConfigurationError, match=complaint):
        await binary.examine(path, CLOCK)


async def test_with_none_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(ConfigurationError, match=r"does not run.*install the package ffmpeg"):
        await find_ffmpeg(CLOCK)
