"""Fetches that break off, from a real server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from orchestrator.adapters.artifacts import open_artifacts
from orchestrator.adapters.visiting import VisitLimits, open_visitor
from orchestrator.core.guard import Guard
from orchestrator.service.artifacts import Artifacts
from orchestrator.service.events import JobEvents
from orchestrator.service.sources import Sources
from tandem.protocol.errors import UrlRefused, UrlUnavailable
from tests.fixtures.clock import ManualClock
from tests.fixtures.origin import Origin, Page, answer, run_origin
from tests.unit.orchestrator.service.conftest import Market

FILE = bytes(range(256)) * 4
HERE = Guard(frozenset(range(1, 2**16)), (ip_network("127.0.0.1/32"),))
TAG = 'ETag: "a"'


@dataclass
class Bench:
    origin: Origin
    sources: Sources
    clock: ManualClock
    folder: Path

    async def fetch(self, *pages: Page) -> bytes:
        """What comes of these answers, one after the other."""
        self.origin.scripts["/"] = list(pages)
        async with asyncio.TaskGroup() as group:
            fetching = group.create_task(self._fetch())
            while not fetching.done():
                if self.clock.sleepers:
                    self.clock.advance(60)
                await asyncio.sleep(0)
        return fetching.result()

    async def _fetch(self) -> bytes:
        record = await self.sources.fetch("job_1", self.origin.url("/"))
        digest = record.id.removeprefix("sha256:")
        return (self.folder / digest[:2] / digest).read_bytes()

    def asked(self) -> list[tuple[str, str]]:
        """The headers Range and If-Range of each visit but the first."""
        heads = [dict(line.split(": ", 1) for line in h.split("\r\n")[1:] if line) for h in self.origin.heads[1:]]
        return [(head["Range"], head["If-Range"]) for head in heads]


@pytest.fixture
async def bench(market: Market, tmp_path: Path) -> AsyncIterator[Bench]:
    folder = tmp_path / "artifacts"
    async with (
        run_origin() as origin,
        open_artifacts(folder) as content,
        open_visitor(HERE, VisitLimits()) as visitor,
    ):
        artifacts = Artifacts(market.store, content, 10_000)
        yield Bench(origin, Sources(artifacts, visitor, JobEvents(), market.clock), market.clock, folder)


def cut(upto: int, *headers: str) -> Page:
    """The beginning of the file."""
    return answer(FILE[:upto], *headers, length=len(FILE))


def rest(start: int, end: int = len(FILE), total: int = len(FILE)) -> Page:
    headers = (f"Content-Range: bytes {start}-{total - 1}/{total}", TAG)
    return answer(FILE[start:end], *headers, status="206 Partial Content", length=total - start)


async def overlong(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says that the rest comes, without a length, and sends all."""
    writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-1023/1024\r\n\r\n" + FILE)
    await writer.drain()


async def test_a_fetch_goes_on_where_it_broke_off(bench: Bench) -> None:
    assert await bench.fetch(cut(100, TAG), rest(100, 300), answer(b"", status="503 Busy"), rest(300)) == FILE
    assert bench.asked() == [("bytes=100-", '"a"'), ("bytes=300-", '"a"'), ("bytes=300-", '"a"')]


async def test_the_time_of_the_last_change_will_do(bench: Bench) -> None:
    changed = "Tue, 24 Nov 2026 18:00:00 GMT"
    assert await bench.fetch(cut(100, 'ETag: W/"a"', f"Last-Modified: {changed}"), rest(100)) == FILE
    assert bench.asked() == [("bytes=100-", changed)]


@pytest.mark.parametrize(
    "second",
    [
        answer(FILE, TAG),
        rest(100, total=2000),
        rest(50),
        overlong,
        answer(b"", "Content-Range: bytes */50", status="416 Range Not Satisfiable"),
    ],
    ids=["no ranges", "another size", "another place", "more than it says", "shorter"],
)
async def test_what_cannot_be_gone_on_with_is_begun_anew_by_another_try(bench: Bench, second: Page) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await bench.fetch(cut(100, TAG), second, rest(100))
    assert raised.group_contains(UrlUnavailable, match="another, or no ranges")
    assert len(bench.origin.heads) == 2
    assert list(bench.folder.glob("??/*")) == []
    assert await bench.fetch(answer(FILE, TAG)) == FILE


async def test_a_file_without_a_name_for_its_state_is_not_gone_on_with(bench: Bench) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await bench.fetch(cut(100), rest(100))
    assert raised.group_contains(UrlUnavailable)
    assert len(bench.origin.heads) == 1


async def test_a_refusal_in_the_middle_is_one(bench: Bench) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await bench.fetch(cut(100, TAG), answer(b"", status="403 Forbidden"))
    assert raised.group_contains(UrlRefused, match="HTTP 403")
