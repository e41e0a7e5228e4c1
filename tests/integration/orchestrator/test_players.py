"""Real players in a real browser play what was put together, to its end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.api import Api
from tests.fixtures.browser import browsing, chromium
from tests.fixtures.streams import CUTS_US, begin, request

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here; scripts/setup.sh test installs it")

SECONDS = 6
PLAYED = (("hls", "master.m3u8"), ("shaka", "master.m3u8"), ("shaka", "manifest.mpd"), ("dash", "manifest.mpd"))


def faults(seen: dict[str, Any]) -> list[str]:
    """What is wrong with what a page saw, in words."""
    told = [f"error {error}" for error in seen["errors"]]
    told += [] if seen["ended"] else [f"stopped at {seen['time']} s, having buffered {seen['buffered']}"]
    sizes = (seen.get("first"), seen["size"])
    told += [] if sizes == ([192, 108], [320, 180]) else [f"sizes {sizes}"]
    told += [] if abs(seen["duration"] - SECONDS) < 0.1 else [f"lasted {seen['duration']} s"]
    told += [] if seen["sound"] else ["no sound"]
    told += [] if len(seen["buffered"]) <= 2 else [f"gaps: {seen['buffered']}"]
    return told


async def test_every_player_plays_to_the_end_with_a_switch_and_a_seek(api: Api, film: Path, tmp_path: Path) -> None:
    stream = await begin(api, film, request(output={"container": "cmaf", "segment_seconds": 2}), CUTS_US, tmp_path)
    for index in range(len(stream.works)):
        await stream.do(index)
    _, job = await api.call("GET", f"/v1/jobs/{stream.job}")
    found: dict[tuple[str, str], list[str]] = {}
    async with browsing() as browser, asyncio.TaskGroup() as group:

        async def play(player: str, path: str) -> None:
            seen = await browser.play(player, api.url + job["folder"] + path, rate=2, seek=4.5, seconds=30)
            found[player, path] = faults(seen)

        for player, path in PLAYED:
            group.create_task(play(player, path))
    assert found == {each: [] for each in PLAYED}
