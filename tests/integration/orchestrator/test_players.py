"""Real players in a real browser play what was put together, to its end."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.api import Api
from tests.fixtures.browser import Browser, browsing, chromium
from tests.fixtures.streams import CUTS_US, Stream, begin, request

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here; scripts/setup.sh test installs it")

SECONDS = 6
SWITCH = ([192, 108], [320, 180])


@dataclass(frozen=True, slots=True)
class Case:
    """A stream, and what plays which of its files."""

    output: dict[str, object]
    played: tuple[tuple[str, str], ...]
    codec: str = "h264"
    seconds: int = SECONDS
    cuts_us: tuple[int, ...] = CUTS_US

    @property
    def ladder(self) -> list[dict[str, object]]:
        rates = ((180, 300_000), (108, 120_000))
        return [{"height": height, "video": {"codec": self.codec, "bitrate": rate}} for height, rate in rates]


CMAF = {"container": "cmaf", "segment_seconds": 2}
HLS, DASH = "master.m3u8", "manifest.mpd"
CASES = {
    "h264": Case(CMAF, (("shaka", HLS), ("dash", DASH))),
    "ts": Case({"container": "hls", "segment_format": "ts", "segment_seconds": 2}, (("hls", HLS),)),
    "vp9": Case(CMAF, (("hls", HLS),), codec="vp9", seconds=3, cuts_us=(0,)),
    "av1": Case(CMAF, (("shaka", DASH),), codec="av1", seconds=3, cuts_us=(0,)),
}


def faults(seen: dict[str, Any], seconds: int, *, text: bool = True) -> list[str]:
    """What is wrong with what a page saw, in words."""
    told = [f"error {error}" for error in seen["errors"]]
    told += [] if seen["ended"] else [f"stopped at {seen['time']} s, having buffered {seen['buffered']}"]
    sizes = (seen.get("first"), seen["size"])
    told += [] if sizes == SWITCH else [f"sizes {sizes}"]
    told += [] if abs(seen["duration"] - seconds) < 0.1 else [f"lasted {seen['duration']} s"]
    told += [] if seen["sound"] else ["no sound"]
    told += [] if len(seen["buffered"]) <= 2 else [f"gaps: {seen['buffered']}"]
    told += [] if not text or set(seen["cues"]) == {"Hello"} else [f"captions {seen['cues']}"]
    return told


async def started(api: Api, film: Path, case: Case, folder: Path, number: int) -> Stream:
    asked = request(output=case.output, ladder=case.ladder, clip={"end": case.seconds})
    return await begin(api, film, asked, case.cuts_us, folder, number)


async def address(api: Api, stream: Stream, path: str) -> str:
    _, job = await api.call("GET", f"/v1/jobs/{stream.job}")
    return f"{api.url}{job['folder']}{path}"


async def grown(browser: Browser, api: Api, stream: Stream) -> list[str]:
    """What goes wrong with hls.js when it has come to the end of what there is, and more comes after that."""
    url = await address(api, stream, HLS)
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(browser.play("hls", url, rate=2, told=1.5, seek=4.5, seconds=30))
        await browser.reached.wait()
        for index in range(2, len(stream.works)):
            await stream.do(index)
    return faults(playing.result(), SECONDS, text=False)


async def test_every_player_plays_to_the_end_with_a_switch_and_a_seek(api: Api, film: Path, tmp_path: Path) -> None:
    streams = {
        name: await started(api, film, case, tmp_path / name, number)
        for number, (name, case) in enumerate(CASES.items())
    }
    for stream in streams.values():
        for index in range(len(stream.works)):
            await stream.do(index)
    growing = await started(api, film, CASES["h264"], tmp_path / "growing", len(CASES))
    await growing.do(0)
    await growing.do(1)
    found: dict[tuple[str, ...], list[str]] = {}
    async with browsing() as browser, asyncio.TaskGroup() as group:

        async def play(name: str, player: str, path: str) -> None:
            url = await address(api, streams[name], path)
            seconds = CASES[name].seconds
            seen = await browser.play(player, url, rate=2, seek=seconds - 1.5, text=True, seconds=30)
            found[name, player, path] = faults(seen, seconds)

        for name, case in CASES.items():
            for player, path in case.played:
                group.create_task(play(name, player, path))
        found["growing",] = await grown(browser, api, growing)
    assert found == {key: [] for key in found}
    assert len(found) == 1 + sum(len(case.played) for case in CASES.values())
