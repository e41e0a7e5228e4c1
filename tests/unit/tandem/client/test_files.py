"""Files to and from the network."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tandem.client.files import read_file, write_verified
from tandem.protocol.errors import TransferFailed


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def test_a_file_is_read_and_written_with_progress(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = bytes(300_000)
    source.write_bytes(data)
    told: list[tuple[int, int | None]] = []
    await write_verified(read_file(source, None), digest(data), target, len(data), lambda *news: told.append(news))
    assert target.read_bytes() == data
    assert told[-1] == (300_000, 300_000)


async def test_bytes_with_another_digest_never_appear(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(TransferFailed, match="fetch it again"):
        await write_verified(pieces(b"new"), digest(b"other"), target, None, None)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
