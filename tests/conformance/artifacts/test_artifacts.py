"""Artifacts: named by their digest, streamed both ways, whole or not at all."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable

import pytest

from orchestrator.ports.artifacts import ArtifactStore
from tandem.protocol.errors import NotFound, TooLarge

MIB = 2**20
LARGE = bytes(range(256)) * (13 * 2**10)
"""3.25 MiB."""


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def pieces(data: bytes, size: int = 65_537) -> AsyncIterator[bytes]:
    return stream(data[start : start + size] for start in range(0, len(data), size))


def named(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def content(artifacts: ArtifactStore, artifact: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in artifacts.read(artifact, start, end)])


async def exists(artifacts: ArtifactStore, data: bytes) -> bool:
    try:
        return await content(artifacts, named(data)) == data
    except NotFound:
        return False


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "small", "large"])
async def test_bytes_come_back_under_their_digest(artifacts: ArtifactStore, data: bytes) -> None:
    assert await artifacts.write(pieces(data), limit=len(data)) == (named(data), len(data))
    assert await content(artifacts, named(data)) == data


async def test_a_chunk_may_be_of_any_size(artifacts: ArtifactStore) -> None:
    chunks = [LARGE[:1], b"", LARGE[1 : 2 * MIB], LARGE[2 * MIB :]]
    assert await artifacts.write(stream(chunks), limit=len(LARGE)) == (named(LARGE), len(LARGE))


async def test_reading_streams_in_pieces(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(LARGE), limit=len(LARGE))
    sizes = [len(piece) async for piece in artifacts.read(artifact)]
    assert max(sizes) <= MIB


RANGES = [(0, 1), (5, 5), (7, 6), (MIB - 1, MIB + 1), (3 * MIB, None), (0, 2**40), (len(LARGE), None), (2**40, None)]


@pytest.mark.parametrize(("start", "end"), RANGES)
async def test_a_range_is_what_a_slice_is(artifacts: ArtifactStore, start: int, end: int | None) -> None:
    artifact, _ = await artifacts.write(pieces(LARGE), limit=len(LARGE))
    assert await content(artifacts, artifact, start, end) == LARGE[start:end]


async def test_a_reader_may_stop_early(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(LARGE), limit=len(LARGE))
    reading = artifacts.read(artifact)
    await anext(reading)
    await reading.aclose()


async def test_the_same_bytes_are_one_artifact(artifacts: ArtifactStore) -> None:
    async with asyncio.TaskGroup() as group:
        writes = [group.create_task(artifacts.write(pieces(LARGE), limit=len(LARGE))) for _ in range(4)]
    assert {write.result() for write in writes} == {(named(LARGE), len(LARGE))}
    await artifacts.delete(named(LARGE))
    assert not await exists(artifacts, LARGE)


async def test_more_than_the_limit_is_refused_as_soon_as_it_comes(artifacts: ArtifactStore) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(MIB)

    with pytest.raises(TooLarge, match=f"at most {2 * MIB} bytes"):
        await artifacts.write(endless(), limit=2 * MIB)
    assert taken == 3


async def test_a_stream_that_breaks_leaves_nothing(artifacts: ArtifactStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await artifacts.write(broken(), limit=len(LARGE))
    assert not await exists(artifacts, LARGE)


async def test_a_writer_that_is_cancelled_leaves_nothing(artifacts: ArtifactStore) -> None:
    waiting = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield LARGE
        waiting.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(artifacts.write(stuck(), limit=len(LARGE)))
        await waiting.wait()
        writing.cancel()
    assert writing.cancelled()
    assert not await exists(artifacts, LARGE)


async def test_a_local_file_stays_for_its_borrower(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(LARGE), limit=len(LARGE))
    async with artifacts.local(artifact) as path:
        await artifacts.delete(artifact)
        assert path.read_bytes() == LARGE
    assert not path.exists()
    assert not await exists(artifacts, LARGE)


async def test_borrowing_takes_nothing_away(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(LARGE), limit=len(LARGE))
    async with artifacts.local(artifact), artifacts.local(artifact):
        pass
    assert await exists(artifacts, LARGE)


async def test_deleting_twice_is_no_error(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(b"x"), limit=1)
    await artifacts.delete(artifact)
    await artifacts.delete(artifact)


async def test_what_came_lately_is_not_deleted_as_old(artifacts: ArtifactStore) -> None:
    artifact, _ = await artifacts.write(pieces(b"x"), limit=1)
    assert await artifacts.aged(3600) == []
    assert await artifacts.aged(0) == [artifact]
    await artifacts.delete(artifact, aged=3600)
    assert await exists(artifacts, b"x")
    await artifacts.delete(artifact, aged=0)
    assert await artifacts.aged(0) == []


STRANGE = [named(b"unknown"), "sha256:../../etc/passwd", "md5:00", named(b"x").upper(), f"{named(b'x')}\n"]


@pytest.mark.parametrize("artifact", STRANGE)
async def test_what_is_not_there_is_not_found(artifacts: ArtifactStore, artifact: str) -> None:
    await artifacts.write(pieces(b"x"), limit=1)
    with pytest.raises(NotFound):
        await content(artifacts, artifact)
    with pytest.raises(NotFound):
        async with artifacts.local(artifact):
            pass


async def test_a_strange_name_is_not_deleted(artifacts: ArtifactStore) -> None:
    with pytest.raises(NotFound, match="64 hexadecimal digits"):
        await artifacts.delete("sha256:../tmp")
