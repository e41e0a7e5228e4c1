"""A window decoded from its ranges of a file is the window decoded from the whole, picture by picture."""

from pathlib import Path

import pytest

from orchestrator.core.splitting import split
from tandem.clock import SystemClock
from tandem.inspection.boxes import is_fragmented
from tandem.inspection.calls import inspect_media
from tandem.protocol.capacity import Sandbox
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.media import Source
from tests.fixtures.media import ffmpeg
from tests.fixtures.protocol import transcode_work

SECOND = 10**6
SCENE = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=32", "-f", "lavfi", "-i", "sine=duration=32")
MADE = {
    "open_gop.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-x264-params", "open-gop=1:keyint=60:bframes=3"),
    "faststart.mp4": ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-movflags", "+faststart"),
    "open_gop_hevc.mov": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=60"),
}


async def inspect(path: Path) -> Source:
    return await inspect_media(path, sandbox=Sandbox.LIMITS, clock=SystemClock())


def pictures(path: Path, work: TranscodeWork) -> list[str]:
    """The digests of the pictures in the window, with their times."""
    assert work.window
    begin = () if work.seek_us is None else ("-seek_timestamp", "1", "-ss", f"{work.seek_us}us", "-noaccurate_seek")
    start, end = (at / SECOND - 0.001 for at in (work.window.start_us, work.window.end_us))
    trim = ("-map", "0:v:0", "-vf", f"trim=start={start}:end={end}", "-fps_mode", "passthrough")
    ffmpeg("-copyts", *begin, "-i", str(path), *trim, "-f", "framemd5", str(path.with_suffix(".md5")))
    return [line for line in path.with_suffix(".md5").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", MADE)
async def test_what_is_needed_is_enough(tmp_path: Path, name: str) -> None:
    path, piece = tmp_path / name, tmp_path / f"piece-{name}"
    ffmpeg(*SCENE, "-pix_fmt", "yuv420p", *MADE[name], "-c:a", "aac", str(path))
    found = await inspect(path)
    assert found.layout is not None
    data = path.read_bytes()
    whole = transcode_work(found.media).model_copy(update={"source_size": len(data)})
    works = split(whole, found.keyframes, [1.0, 1.0], 2 * SECOND, found.layout).works
    for work in (each for each in works if each.window and each.ranges):
        with piece.open("wb") as file:
            file.truncate(len(data))
            for start, end in work.ranges:
                file.seek(start)
                file.write(data[start:end])
        assert pictures(piece, work) == pictures(path, work) != []
    assert sum(work.bytes_needed for work in works if work.window) < 2.5 * len(data)


async def test_a_file_without_one_index_has_no_layout(tmp_path: Path) -> None:
    small = ("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=2", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    fragmented, other = tmp_path / "fragmented.mp4", tmp_path / "other.mkv"
    ffmpeg(*small, "-movflags", "+frag_keyframe+empty_moov", str(fragmented))
    ffmpeg(*small, str(other))
    for path in (fragmented, other):
        assert (await inspect(path)).layout is None


@pytest.mark.parametrize(
    ("data", "fragmented"),
    [
        (b"", False),
        (b"\0\0\0\x08ftyp\0\0\0\0mdat", False),
        (b"\0\0\0\x01mdat" + (32).to_bytes(8) + b"\0" * 16 + b"\0\0\0\x08moof", True),
        (b"\0\0\0\x03ftyp", True),
        (b"\0\0\0\x08free" * 2000, True),
    ],
)
def test_the_boxes_of_a_file_say_whether_it_is_fragmented(tmp_path: Path, data: bytes, fragmented: bool) -> None:
    (tmp_path / "file").write_bytes(data)
    assert is_fragmented(tmp_path / "file") == fragmented
