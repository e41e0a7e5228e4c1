"""Files that mean harm: each ends in a named error, within bounds of time and memory, and nothing leaks.

Each goes both ways: into the inspection, which is all that most of them ever see, and straight into the executor, as
if an orchestrator had let it through.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import pytest

from node.adapters.ffmpeg import SOFTWARE, FfmpegTranscoder, binary
from tandem.clock import SystemClock
from tandem.inspection.calls import inspect_media
from tandem.process import tree
from tandem.protocol.capacity import Capability, Sandbox
from tandem.protocol.errors import ExecutionFailed, TandemError, UnreadableMedia
from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.media import MediaInfo
from tests.fixtures.media import CLIPS, encode, ffmpeg
from tests.fixtures.protocol import media, transcode_work

CLOCK = SystemClock()
SECRET = CLIPS / "bikes_640x272_noaudio.mp4"
MOST_MIB = 700
MOST_SECONDS = 20


@dataclass
class Watched:
    """The most memory that children were seen to hold, in MiB."""

    most: int = 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched()

    def look(pid: int) -> int:
        resident = tree.resident_bytes(pid)
        seen.most = max(seen.most, resident // 2**20)
        return resident

    monkeypatch.setattr("tandem.process.child.resident_bytes", look)
    return seen


def text(content: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_text(content.replace("SECRET", str(SECRET)))
        return path

    return make


def magicyuv(path: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:duration=0.2", "-c:v", "magicyuv", "-f", "avi", path)
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(SECRET.read_bytes()[:-40_000])
    return path


def pixel_bomb(path: Path) -> Path:
    """A PNG of 60,000 pixels a side in some kilobytes, in a Matroska as if it were video."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(7501) * 2000, 9)
    picture = path.with_suffix(".png")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    path.write_bytes(picture.read_bytes())
    return path


def many_streams(path: Path) -> Path:
    """An MPEG-TS whose program says that it has thousands of streams, in as many program maps as that takes."""

    def section(table: int, number: int, body: bytes) -> bytes:
        head = bytes([table]) + struct.pack(">H", 0xB000 | (len(body) + 9)) + struct.pack(">H", number) + b"\xc1\0\0"
        whole = head + body
        crc = 0xFFFFFFFF
        for byte in whole:
            crc ^= byte << 24
            for _ in range(8):
                crc = ((crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        return whole + struct.pack(">I", crc)

    def packet(pid: int, payload: bytes) -> bytes:
        return (b"\x47" + struct.pack(">H", 0x4000 | pid) + b"\x10\0" + payload).ljust(188, b"\xff")

    packets = []
    for program in range(1, 400):
        pids = range(program * 20, program * 20 + 20)
        streams = b"".join(b"\x1b" + struct.pack(">H", 0xE000 | (32 + pid % 8000)) + b"\xf0\0" for pid in pids)
        packets.append(packet(0, section(0, 1, struct.pack(">HH", program, 0xE000 | (16 + program % 15)))))
        packets.append(packet(16 + program % 15, section(2, program, b"\xe0\x20\xf0\0" + streams)))
    path.write_bytes(b"".join(packets) * 3)
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "hls": text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://SECRET\n#EXT-X-ENDLIST\n"),
    "hls over http": text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
    "concat": text("ffconcat version 1.0\nfile SECRET\n"),
    "dash": text("<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>file://SECRET</BaseURL></MPD>"),
    "svg": text("<svg xmlns='http://www.w3.org/2000/svg' width='9000' height='9000'><image href='file://SECRET'/></svg>"),
    "magicyuv": magicyuv,
    "truncated": truncated,
    "pixel bomb": pixel_bomb,
    "many streams": many_streams,
}  # fmt: skip


async def transcode(source: Path, folder: Path, about: MediaInfo) -> dict[str, Path]:
    found = await binary.examine(Path(imageio_ffmpeg.get_ffmpeg_exe()), CLOCK)
    capability = Capability(video_encoders=SOFTWARE)
    runner = FfmpegTranscoder(found, capability, sandbox=Sandbox.LIMITS, clock=CLOCK, wall_seconds=MOST_SECONDS)
    work = transcode_work(about, RenditionRequest(height=64, audio=None))
    return await runner.transcode(work, source, None, folder, lambda *_: None)


@pytest.mark.parametrize("name", HOSTILE)
async def test_each_ends_in_a_named_error(tmp_path: Path, watched: Watched, name: str) -> None:
    source = HOSTILE[name](tmp_path / "upload.mp4")
    begun = CLOCK.monotonic()
    with pytest.raises(UnreadableMedia):
        await inspect_media(source, sandbox=Sandbox.LIMITS, clock=CLOCK)
    with pytest.raises(TandemError) as caught:
        await transcode(source, tmp_path, media(640, 272))
    assert isinstance(caught.value, ExecutionFailed)
    assert str(tmp_path) not in caught.value.detail
    assert CLOCK.monotonic() - begun < MOST_SECONDS
    assert watched.most < MOST_MIB


async def test_a_timestamp_bomb_stays_as_many_frames_as_it_has(tmp_path: Path, watched: Watched) -> None:
    """Fifty frames and then one five hours later are not made half a million."""
    source = encode(tmp_path / "bomb.mkv", [*range(0, 2000, 40), 18_000_000], (96, 64))
    about = (await inspect_media(source, sandbox=Sandbox.LIMITS, clock=CLOCK)).media
    assert about.video is not None
    assert (about.video.frames, about.video.variable_rate) == (51, True)
    begun = CLOCK.monotonic()
    made = (await transcode(source, tmp_path, about))["64p"]
    got = (await inspect_media(made, sandbox=Sandbox.LIMITS, clock=CLOCK)).media
    assert got.video is not None
    assert got.video.frames == 51
    assert CLOCK.monotonic() - begun < MOST_SECONDS
    assert watched.most < MOST_MIB


async def test_a_file_that_changes_after_it_was_inspected_gives_no_more_than_was_paid_for(tmp_path: Path) -> None:
    """One that was two seconds long when it was priced is a minute when it is transcoded, and then a playlist."""
    source = tmp_path / "upload.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=60", "-c:v", "libx264", source)
    made = (await transcode(source, tmp_path, media(96, 64)))["64p"]
    got = (await inspect_media(made, sandbox=Sandbox.LIMITS, clock=CLOCK)).media
    assert got.video is not None
    assert got.video.frames <= 50 + 50 // 20 + 50
    assert got.duration_us <= 4_000_000
    HOSTILE["hls"](source)
    with pytest.raises(ExecutionFailed):
        await transcode(source, tmp_path, media(96, 64))
