"""What hostile nodes may deliver ends in a refusal, and soon."""

from pathlib import Path

import pytest

from orchestrator.adapters.packaging import ChildPackager
from orchestrator.ports.packaging import Cutting, Images, Part, Pictures, Sound
from tandem.clock import SystemClock
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ResultRejected
from tests.fixtures.media import ffmpeg

SCENE = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4")


@pytest.fixture
def packager(tmp_path: Path) -> ChildPackager:
    return ChildPackager(tmp_path / "rooms", sandbox=Sandbox.LIMITS, clock=SystemClock())


async def cut(packager: ChildPackager, part: Part) -> list[int]:
    """Where each segment begins."""
    async with packager.room() as room:
        (made,) = await packager.cut(Cutting(parts=(part,), folder=room, segment_us=1_000_000))
        return [each.start for each in made.cuts]


async def test_pictures_within_pictures_are_no_pictures_of_their_own(packager: ChildPackager, tmp_path: Path) -> None:
    path, each = tmp_path / "poster.jpg", tmp_path / "%d.jpg"
    ffmpeg(*SCENE, "-frames:v", "2", each)
    first, second = ((tmp_path / f"{number}.jpg").read_bytes() for number in (1, 2))
    inside = b"\xff\xd8\xff" * 2000
    path.write_bytes(first[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2) + inside + first[2:] + second)
    assert await cut(packager, Images(name="thumbnails", path=path)) == [0, 1]
    path.write_bytes(first + b"GIF89a")
    with pytest.raises(ResultRejected, match="JPEG pictures one after the other"):
        await cut(packager, Images(name="thumbnails", path=path))


@pytest.mark.parametrize("kind", [Pictures, Sound])
async def test_a_file_that_breaks_its_reader_is_refused(
    packager: ChildPackager, tmp_path: Path, kind: type[Pictures | Sound]
) -> None:
    path = tmp_path / "words.vtt"
    path.write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")
    with pytest.raises(ResultRejected):
        await cut(packager, kind(name="a", path=path, first=path))
