"""What the store on a disk leaves on it."""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.adapters.artifacts import open_artifacts
from tandem.protocol.errors import ConfigurationError, TooLarge, Unavailable

DIGEST = hashlib.sha256(b"whole").hexdigest()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_an_artifact_lies_under_its_digest(tmp_path: Path) -> None:
    async with open_artifacts(tmp_path / "a" / "b") as artifacts:
        await artifacts.write(stream(b"who", b"le"), limit=5)
    assert files(tmp_path / "a" / "b") == [f"{DIGEST[:2]}/{DIGEST}"]


async def test_an_upload_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    async with open_artifacts(tmp_path) as artifacts:
        with pytest.raises(TooLarge):
            await artifacts.write(stream(bytes(2**20), bytes(2**20), b"!"), limit=2**21)
        assert files(tmp_path) == []


async def test_a_disk_that_fails_ends_no_process(tmp_path: Path) -> None:
    async with open_artifacts(tmp_path) as artifacts:
        (tmp_path / "tmp").rmdir()
        with pytest.raises(Unavailable, match="No such file or directory; free some disk space"):
            await artifacts.write(stream(b"whole"), limit=5)


async def test_a_killed_upload_is_cleared_away_at_the_next_start(tmp_path: Path) -> None:
    async with open_artifacts(tmp_path) as artifacts:
        await artifacts.write(stream(b"whole"), limit=5)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.unit.orchestrator.adapters.uploading", tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"writing\n"
    child.kill()
    await child.communicate()
    assert len(files(tmp_path)) == 2
    async with open_artifacts(tmp_path):
        assert files(tmp_path) == [f"{DIGEST[:2]}/{DIGEST}"]


async def test_a_folder_that_cannot_be_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="folder for artifacts"):
        async with open_artifacts(tmp_path / "file"):
            pass
