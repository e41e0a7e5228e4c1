"""Probing real clips, and files that are none."""

from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from tandem.clock import SystemClock
from tandem.inspection.accepted import FORMATS
from tandem.inspection.calls import inspect_media, inspect_results
from tandem.inspection.compared import Comparison
from tandem.inspection.proof import Proof
from tandem.process import Limits, python_command
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import Unavailable, UnreadableMedia
from tandem.protocol.media import MediaInfo, SoundCount
from tests.fixtures.media import CLIPS, encode, ffmpeg, rotate
from tests.fixtures.sources import SOURCES, Source

FACTS = {
    "bbb_720p25_aac51.mp4": ((1280, 720), 132, (25, 1), 5_280_000, 6),
    "bikes_640x272_noaudio.mp4": ((640, 272), 52, (25, 1), 2_160_000, None),
    "carphone_176x144_sar.mp4": ((193, 144), 32, (30000, 1001), 1_101_100, None),
    "hls_segment_15fps_sar.ts": ((391, 300), 134, (15, 1), 8_933_333, 2),
    "sintel_cea608.ts": ((400, 170), 240, (24, 1), 10_000_000, 2),
}
RED_SQUARE = ("-f", "lavfi", "-i", "color=red:size=64x64:duration=0.04:rate=25")


async def probe(path: Path, sandbox: Sandbox = Sandbox.LIMITS) -> MediaInfo:
    return (await inspect_media(path, sandbox=sandbox, clock=SystemClock())).media


@pytest.mark.parametrize("name", FACTS)
async def test_real_clips(name: str) -> None:
    info = await probe(CLIPS / name)
    size, frames, rate, duration, channels = FACTS[name]
    assert info.video is not None
    assert info.video.display_size == size
    assert (info.video.codec, info.video.frames, info.video.frame_rate) == ("h264", frames, rate)
    assert info.duration_us == duration
    assert [stream.channels for stream in info.audio] == ([channels] if channels else [])


MADE: dict[str, dict[str, object]] = {
    "h264_open_gop.mp4": {"codec": "h264", "frames": 50, "start_us": 0},
    "h264_mbaff.ts": {"field_order": "top_first", "frames": 50, "start_us": 1_480_000},
    "h264_interlaced.mp4": {"codec": "h264", "field_order": "top_first", "frames": 100},
    "h264_late.ts": {"start_us": 3_601_900_000, "duration_us": 2_000_000},
    "h264.flv": {"codec": "h264", "variable_rate": False, "frame_rate": (25, 1)},
    "hevc10_pq.mkv": {"codec": "hevc", "bit_depth": 10, "color.transfer": "smpte2084", "color.hdr": True},
    "hevc10_hlg.mp4": {"pixel_format": "yuv420p10le", "color.matrix": "bt2020nc", "color.hdr": True},
    "vp8.webm": {"codec": "vp8", "frames": 50},
    "vp9.webm": {"codec": "vp9", "frames": 50},
    "av1.mkv": {"codec": "av1", "frames": 50},
    "mpeg2_interlaced.mpg": {"codec": "mpeg2video", "field_order": "top_first", "frames": 50},
    "mpeg2.ts": {"codec": "mpeg2video", "field_order": "progressive", "frames": 50},
    "asp_packed.avi": {"codec": "mpeg4", "frames": 50},
    "msmpeg4.avi": {"codec": "msmpeg4v3", "frames": 50},
    "prores.mov": {"codec": "prores", "bit_depth": 10},
    "mjpeg_odd.mov": {"codec": "mjpeg", "width": 97, "height": 63},
    "sar.mp4": {"sample_aspect": (4, 3), "display_size": (128, 64)},
}


@pytest.mark.parametrize("name", MADE)
async def test_made_sources(source: Source, name: str) -> None:
    assert name in SOURCES
    video = (await probe(source(name))).video
    assert {fact: attrgetter(fact)(video) for fact in MADE[name]} == MADE[name]


async def test_tracks_have_languages_and_a_default(source: Source) -> None:
    info = await probe(source("tracks.mkv"))
    assert [(each.codec, each.language, each.default) for each in info.audio] == [
        ("aac", "eng", False),
        ("opus", "deu", True),
    ]
    assert [(each.codec, each.language, each.text) for each in info.subtitles] == [("subrip", "fra", True)]


async def test_captions_among_the_pictures_are_seen() -> None:
    with_captions, without = await probe(CLIPS / "sintel_cea608.ts"), await probe(CLIPS / "hls_segment_15fps_sar.ts")
    assert with_captions.video is not None
    assert without.video is not None
    assert (with_captions.video.captions, without.video.captions) == (True, False)
    assert [(each.start_us, each.duration_us) for each in with_captions.audio] == [(9_881_000, 9_845_256)]


@pytest.mark.parametrize(
    ("name", "keyframes"),
    [
        ("h264.mp4", (0, 1_000_000)),
        ("h264_open_gop.mp4", (0, 480_000, 960_000, 1_440_000, 1_920_000)),
        ("h264_refresh.ts", (1_400_000,)),
    ],
)
async def test_keyframes_are_where_decoding_can_begin(source: Source, name: str, keyframes: tuple[int, ...]) -> None:
    """A refresh that takes many pictures is marked as a keyframe too, and is none."""
    found = await inspect_media(source(name), sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert found.keyframes == keyframes


async def test_a_timeline_that_forbids_splitting_says_why(source: Source) -> None:
    assert (await probe(source("h264.mp4"))).splittable
    assert (await probe(source("asp_packed.avi"))).unsplittable == "an AVI with B-frames, whose times are guesses"


async def test_every_confinement_sees_the_same(sandbox: Sandbox) -> None:
    info = await probe(CLIPS / "bbb_720p25_aac51.mp4", sandbox)
    assert info.audio[0].codec == "aac"
    assert info.format.startswith("mov,mp4")


@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_rotation_is_clockwise(tmp_path: Path, degrees: int) -> None:
    info = await probe(rotate(CLIPS / "bikes_640x272_noaudio.mp4", tmp_path / "turned.mp4", degrees))
    assert info.video is not None
    assert info.video.rotation == degrees
    assert info.video.display_size == ((272, 640) if degrees % 180 else (640, 272))


async def test_variable_frame_rate_and_odd_sizes(tmp_path: Path) -> None:
    info = await probe(encode(tmp_path / "odd.mkv", [0, 40, 80, 500, 520, 2000], (175, 143)))
    assert info.video is not None
    assert (info.video.width, info.video.height, info.video.frames) == (175, 143, 6)
    assert 2_000_000 <= info.duration_us <= 2_100_000


async def test_sound_alone_is_media_without_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    ffmpeg("-i", CLIPS / "bbb_720p25_aac51.mp4", "-vn", "-c", "copy", path)
    info = await probe(path)
    assert info.video is None
    assert len(info.audio) == 1
    assert info.duration_us > 5_000_000


async def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    options = ["-map", "0:a", "-map", "1:v", "-c:a", "copy", "-c:v", "mjpeg", "-disposition:v", "attached_pic"]
    ffmpeg("-i", CLIPS / "bbb_720p25_aac51.mp4", *RED_SQUARE, *options, path)
    assert (await probe(path)).video is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty one"),
        (b"just some words\n" * 100, "got text"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://SECRET\n#EXT-X-ENDLIST\n", "playlist"),
        (b"ffconcat version 1.0\nfile SECRET\n", "playlist"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "playlist"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(4096), "damaged or cut short"),
        (bytes(range(256)) * 64, "no format that is known"),
    ],
    ids=["empty", "text", "hls", "concat", "svg", "truncated", "noise"],
)
async def test_files_that_are_no_media(tmp_path: Path, content: bytes, message: str) -> None:
    """Among them playlists that call themselves MP4 and point at a real video beside them."""
    path = tmp_path / "upload.mp4"
    path.write_bytes(content.replace(b"SECRET", bytes(CLIPS / "bbb_720p25_aac51.mp4")))
    with pytest.raises(UnreadableMedia, match=message):
        await probe(path)


async def test_a_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    ffmpeg(*RED_SQUARE, path)
    with pytest.raises(UnreadableMedia, match="a picture"):
        await probe(path)


async def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes((CLIPS / "bikes_640x272_noaudio.mp4").read_bytes()[:-40_000])
    with pytest.raises(UnreadableMedia, match="complete"):
        await probe(path)


@pytest.mark.parametrize("name", ["h264.mp4", "hevc10_hlg.mp4", "vp9.webm", "av1.mkv"])
async def test_a_result_is_decoded_here_and_there_and_at_its_end(source: Source, name: str) -> None:
    (found,) = await inspect_results([source(name)], sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert found.source is not None
    assert found.source.media.video is not None
    assert found.source.media.video.frames == 50


async def test_a_result_with_a_broken_end_is_refused(source: Source, tmp_path: Path) -> None:
    data = bytearray(source("h264_mbaff.ts").read_bytes())
    for offset in range(len(data) - 188 * 40 + 60, len(data), 188):  # what the packets carry, not their headers
        data[offset : offset + 100] = b"\x55" * 100
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data)
    await probe(broken)
    fine, found = await inspect_results([source("h264.mp4"), broken], sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert fine.source is not None
    assert "that can be decoded" in found.refused


@pytest.mark.parametrize("chosen", [0, 2])
def test_a_broken_picture_is_found_where_it_is_looked_for(
    source: Source, monkeypatch: pytest.MonkeyPatch, chosen: int
) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda _: chosen)
    with av.open(str(source("h264.mp4"))) as container:
        stream = container.streams.video[0]
        proof, keys = Proof(stream), 0
        with pytest.raises(UnreadableMedia) if chosen == 0 else nullcontext():
            for packet in container.demux(stream):
                keys += packet.is_keyframe
                given: Packet[Any] = packet
                if packet.size and not packet.is_keyframe and keys == 1:
                    given = Packet(bytes(packet)[:5] + b"\x55" * (packet.size - 5))
                    given.pts, given.dts, given.time_base = packet.pts, packet.dts, packet.time_base
                if packet.size:
                    proof.add(given)
            proof.conclude()


def rewritten(path: Path, *pieces: tuple[Path, float, float], streams: int = 1) -> Path:
    """The packets of some files from and up to some times (seconds), one after the other, as one transport stream."""
    with av.open(str(path), "w", format="mpegts", options={"mpegts_copyts": "1"}) as target:
        with av.open(str(pieces[0][0])) as first:
            tracks = [target.add_stream_from_template(first.streams.video[0]) for _ in range(streams)]
        for source, start, end in pieces:
            with av.open(str(source)) as container:
                for packet in container.demux(container.streams.video[0]):
                    at = float((packet.pts or 0) * (packet.time_base or 0))
                    if packet.size and start <= at < end:
                        for packet.stream in tracks:
                            target.mux_one(packet)
    return path


def window(path: Path, size: str, *options: str) -> Path:
    """Four seconds of pictures as a node delivers them."""
    picture = ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=4", "-c:v", "libx264", "-g", "25")
    ffmpeg(*picture, "-muxdelay", "0", "-muxpreload", "0", "-output_ts_offset", "10", *options, path)
    return path


async def test_a_result_is_of_one_size_and_one_stream_and_of_closed_gops(tmp_path: Path) -> None:
    whole, tiny = window(tmp_path / "a.ts", "128x96"), window(tmp_path / "b.ts", "32x24")
    open_gops = ("-x264-params", "open-gop=1:keyint=25:min-keyint=25:scenecut=0:bframes=3")
    files = {
        window(tmp_path / "open.ts", "128x96", *open_gops): "GOPs that are closed",
        rewritten(tmp_path / "shrinks.ts", (whole, 0, 10.99), (tiny, 10.99, 99)): "pictures of (128, 96), got one of",
        rewritten(tmp_path / "twice.ts", (whole, 0, 99), streams=2): "pictures and sound alone",
        rewritten(tmp_path / "late.ts", (whole, 10.5, 99)): "a keyframe first",
    }
    fine, *found = await inspect_results([whole, *files], sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert fine.source is not None
    for report, said in zip(found, files.values(), strict=True):
        assert said in report.refused


async def test_a_source_that_breaks_its_reader_is_no_fault_of_a_result(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_comparing(module: str, *words: str) -> list[str]:
        return ["/bin/sh", "-c", "kill -9 $$"] if words[-1] else python_command(module, *words)

    monkeypatch.setattr("tandem.inspection.calls.python_command", dies_comparing)
    asked = Comparison(source=tmp_path, origin_us=0, at_us=0, result_us=0, pixels=1)
    (found,) = await inspect_results([source("h264.mp4")], asked, sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert found.source is not None
    assert found.likeness is None
    monkeypatch.setattr("tandem.inspection.calls.python_command", lambda *_: ["/bin/sh", "-c", "kill -9 $$"])
    with pytest.raises(UnreadableMedia, match="signal 9"):
        await inspect_results([source("h264.mp4")], asked, sandbox=Sandbox.LIMITS, clock=SystemClock())


async def test_packets_of_sound_are_counted_and_tried(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=3", "-c:a", "aac", path)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    end = begin - 8 + int.from_bytes(data[begin - 8 : begin - 4])
    data[begin:end] = b"\x55" * (end - begin)
    (tmp_path / "broken.mp4").write_bytes(data)
    paths = (path, tmp_path / "broken.mp4")
    fine, broken = await inspect_results(paths, sandbox=Sandbox.LIMITS, clock=SystemClock())
    assert fine.source is not None
    assert fine.source.sounds == (SoundCount(packets=142, broken=0),)
    assert broken.source is not None
    assert broken.source.sounds[0].broken


async def test_a_probe_that_passes_its_bounds_blames_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.inspection.calls._media_limits", lambda _path: Limits(memory_mib=64, wall_seconds=0.1))
    monkeypatch.setattr("tandem.inspection.calls.python_command", lambda *_words: ["/usr/bin/sleep", "1000"])
    with pytest.raises(UnreadableMedia, match=r"within bounds.*within 0\.1 s"):
        await probe(CLIPS / "bbb_720p25_aac51.mp4")


async def test_a_probe_that_cannot_run_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tandem.inspection.calls.python_command", lambda *_words: ["/bin/sh", "-c", "echo no >&2; exit 1"]
    )
    with pytest.raises(Unavailable, match="got: no"):
        await probe(CLIPS / "bbb_720p25_aac51.mp4")


@pytest.mark.parametrize("answer", ["", "surprise", "[]", "{}", '{"result": {"format": 1}}', "[" * 100_000])
async def test_an_answer_that_is_none_is_the_files_fault(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("tandem.inspection.calls.python_command", lambda *_words: ["/usr/bin/printf", "%s", answer])
    with pytest.raises(UnreadableMedia):
        await probe(CLIPS / "bbb_720p25_aac51.mp4")


def test_nothing_that_points_elsewhere_is_accepted() -> None:
    assert not {"hls", "concat", "dash", "image2", "png_pipe", "svg_pipe", "sdp", "lavfi"} & set(FORMATS)
