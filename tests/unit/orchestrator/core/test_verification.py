from contextlib import nullcontext
from time import process_time

import pytest

from orchestrator.core.verification import Found, check_content, check_files, check_outputs, upload_limit
from tandem.protocol.errors import ResultRejected
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import RenditionRequest, SubtitleRendition, Window
from tandem.protocol.media import AudioStream, MediaInfo, SoundCount, Source, SubtitleStream
from tandem.protocol.outputs import FileResult
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.protocol import SHA, inference_work, media, tensor, transcode_work

WORK = transcode_work(media(640, 360), RenditionRequest(height=360), RenditionRequest(height=240))


def results(*names: str) -> list[FileResult]:
    return [FileResult(name=name, artifact=SHA, size=1) for name in names]


def test_exactly_the_ladder_is_expected() -> None:
    check_files(WORK, results("240p", "360p"))


@pytest.mark.parametrize("names", [(), ("360p",), ("360p", "360p"), ("360p", "240p", "144p"), ("360p", "240P")])
def test_other_renditions_are_rejected(names: tuple[str, ...]) -> None:
    with pytest.raises(ResultRejected, match="expected the files"):
        check_files(WORK, results(*names))


def found(
    info: MediaInfo, size: int = 1000, keyframes: tuple[int, ...] = (0,), lost: int = 0, broken: int = 0
) -> Found:
    """A file of which so many packets of sound are missing, and so many broken."""
    counts = (each.duration_us * each.sample_rate // 1_024_000_000 + 1 - lost for each in info.audio)
    sounds = tuple(SoundCount(packets=count, broken=broken) for count in counts)
    return Found(size, Source(media=info, keyframes=keyframes, sounds=sounds))


def check(work: TranscodeWork, **files: Found) -> None:
    good = {"360p": found(media(640, 360)), "240p": found(media(426, 240))}
    check_content(work, good | {name.removeprefix("_"): file for name, file in files.items()})


def test_a_good_result_passes() -> None:
    check(WORK)
    check(WORK, _240p=found(media(426, 240, frames=52, sample_aspect=(640, 639))))


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (media(424, 240), "size"),
        (media(240, 426, rotation=90), "size"),
        (media(426, 240, rotation=90), "size as shown"),
        (media(426, 240, sample_aspect=(4, 3)), "size as shown"),
        (media(426, 240, codec="hevc"), "codec h264, got hevc"),
        (media(426, 240, bit_depth=10), "bits a sample 8, got 10"),
        (media(426, 240, frames=47), "frames 50, got 47"),
        (media(426, 240, frames=0), "frames 50, got 0"),
        (media(426, 240, start_us=90_000), "a start in µs from 0, got 90000"),
        (media(426, 240, sound=False), "audio"),
        (media(426, 240, duration_us=1_400_000), "duration"),
        (media(426, 240).model_copy(update={"unsplittable": "times that run backwards"}), "times that rise"),
        (media(426, 240).model_copy(update={"format": "matroska,webm"}), "container mp4, got matroska,webm"),
        (MediaInfo(format="mp4", duration_us=2_000_000, video=None), "a video stream"),
    ],
)
def test_renditions_that_are_not_what_was_asked(info: MediaInfo, said: str) -> None:
    with pytest.raises(ResultRejected, match=f"rendition 240p: expected {said}"):
        check(WORK, _240p=found(info))


@pytest.mark.parametrize(("frames", "fine"), [(43, True), (42, False)])
def test_only_frames_whose_times_are_in_doubt_may_be_missing(frames: int, *, fine: bool) -> None:
    source = media(640, 360, doubtful=5).model_copy(update={"unsplittable": "times that run backwards"})
    work = transcode_work(source, RenditionRequest(height=360))
    with nullcontext() if fine else pytest.raises(ResultRejected, match="frames 50"):
        check_content(work, {"360p": found(media(640, 360, frames=frames))})


def test_a_rendition_far_above_its_bitrate_is_rejected() -> None:
    with pytest.raises(ResultRejected, match="rendition 240p: expected bytes at most"):
        check(WORK, _240p=found(media(426, 240), size=2**20))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"start_us": 1_400_000}, "sound that starts in µs near 0, got 1400000"),
        ({"duration_us": 9_000_000}, "sound that ends in µs near 0, got 9000000"),
        ({"channels": 1}, "channels 2, got 1"),
    ],
)
def test_the_sound_in_an_mp4_is_where_it_belongs(facts: dict[str, int], said: str) -> None:
    info = media(426, 240)
    moved = info.model_copy(update={"audio": (info.audio[0].model_copy(update=facts),)})
    with pytest.raises(ResultRejected, match=f"rendition 240p: expected {said}"):
        check(WORK, _240p=found(moved))


def test_silence_must_be_silent() -> None:
    silent = transcode_work(media(640, 360, sound=False))
    with pytest.raises(ResultRejected, match="audio"):
        check(silent)


PIECE = transcode_work(
    media(640, 360, start_us=5_000_000, frames=250, duration_us=10_000_000).model_copy(
        update={"duration_us": 10_000_000}
    ),
    RenditionRequest(height=360),
    output={"container": "hls", "segment_seconds": 2},
).model_copy(update={"window": Window(start_us=9_000_000, end_us=13_000_000), "audio": ()})
"""From 4 to 8 s of the job."""


def piece(start_us: int = 14_000_000, frames: int = 100, duration_us: int = 4_000_000, **video: object) -> MediaInfo:
    info = media(640, 360, sound=False, start_us=start_us, frames=frames, duration_us=duration_us, **video)
    return info.model_copy(update={"format": "mpegts"})


def test_a_window_is_on_the_jobs_timeline() -> None:
    check_content(PIECE, {"360p": found(piece(), keyframes=(14_000_000, 16_000_000))})


@pytest.mark.parametrize(
    ("info", "keyframes", "said"),
    [
        (piece(start_us=10_000_000), (10_000_000, 12_000_000), "a start in µs from 0, got -4000000"),
        (piece(frames=90), (14_000_000, 16_000_000), "frames 100, got 90"),
        (piece(), (14_000_000,), r"a keyframe at each GOP, from µs \[6000000\]"),
        (piece(), (14_040_000, 16_000_000), "a keyframe at the start"),
        (piece(), (), "a keyframe at the start"),
    ],
)
def test_windows_that_would_not_fit_are_rejected(info: MediaInfo, keyframes: tuple[int, ...], said: str) -> None:
    with pytest.raises(ResultRejected, match=said):
        check_content(PIECE, {"360p": found(info, keyframes=keyframes)})


def test_a_window_of_a_variable_rate_may_have_few_frames() -> None:
    few = piece(15_000_000, frames=3, duration_us=3_000_000, longest_us=1_500_000)
    check_content(VAGUE, {"360p": found(few, keyframes=(15_000_000, 16_000_000))})


VAGUE = PIECE.model_copy(
    update={"media": media(640, 360, start_us=5_000_000, frames=250, variable_rate=True, longest_us=1_500_000)}
)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (piece(frames=300), "frames 1 to 250, got 300"),
        (piece(15_000_000, frames=2, duration_us=3_000_000, longest_us=1_600_000), "µs between frames 1502000, got"),
        (piece(16_000_000, duration_us=2_000_000), "a start in µs from 0, got 2000000"),
        (piece(frames=1, duration_us=40_000), "duration in µs 4000000, got 40000"),
        (piece(), r"a keyframe at each GOP, from µs \[6000000\]"),
    ],
)
def test_windows_of_a_variable_rate_that_lack_pictures_are_rejected(info: MediaInfo, said: str) -> None:
    keyframe = info.video.start_us if info.video else 0
    with pytest.raises(ResultRejected, match=said):
        check_content(VAGUE, {"360p": found(info, keyframes=(keyframe,))})


def test_gops_are_as_asked_in_an_mp4_too() -> None:
    work = transcode_work(media(640, 360, sound=False), RenditionRequest(height=360), gop_seconds=1)
    good = media(640, 360, sound=False)
    check_content(work, {"360p": found(good, keyframes=(0, 1_000_000))})
    with pytest.raises(ResultRejected, match=r"a keyframe at each GOP, from µs \[1000000\]"):
        check_content(work, {"360p": found(good)})


def test_the_keyframes_of_a_long_file_are_looked_at_soon() -> None:
    hours = 12 * 3600
    long = media(640, 360, sound=False, frames=hours, frame_rate=(1, 1), duration_us=hours * 10**6)
    long = long.model_copy(update={"duration_us": hours * 10**6})
    work = transcode_work(long, RenditionRequest(height=360), gop_seconds=1)
    began = process_time()
    check_content(work, {"360p": found(long, keyframes=tuple(range(0, hours * 10**6, 10**6)))})
    assert process_time() - began < 5


def sound(channels: int = 2, codec: str = "aac", start_us: int = 0, duration_us: int = 2_000_000) -> MediaInfo:
    stream = AudioStream(codec=codec, channels=channels, sample_rate=48_000, start_us=start_us, duration_us=duration_us)
    return MediaInfo(format="mp4", duration_us=duration_us, video=None, audio=(stream,))


BESIDE = transcode_work(
    media(640, 360).model_copy(update={"audio": sound().audio}),
    RenditionRequest(height=360),
    output={"container": "hls"},
    thumbnails={"interval": 0.5, "height": 90},
    sprite={"interval": 0.5, "height": 18, "columns": 3, "rows": 1},
).model_copy(update={"video": (), "subtitles": (SubtitleRendition(name="subtitles0", track=0),)})
STILLS = {"thumbnails": Found(9, pictures=((160, 90),) * 4), "sprite": Found(9, pictures=((96, 18),) * 2)}
TEXT = {"subtitles0": Found(9, text=True)}


def test_sound_stills_and_text_pass() -> None:
    check_content(BESIDE, {"audio0": found(sound())} | STILLS | TEXT)


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("audio0", found(sound(channels=1)), "channels 2, got 1"),
        ("audio0", found(sound(codec="opus")), "codec aac, got opus"),
        ("audio0", found(sound(start_us=300_000)), "sound that starts in µs near 0, got 300000"),
        ("audio0", found(sound(duration_us=1_000_000)), "sound that ends in µs near 2000000, got 1000000"),
        ("audio0", found(media()), "an audio stream"),
        ("audio0", found(sound(), size=2**20), "bytes at most"),
        ("audio0", found(sound().model_copy(update={"format": "matroska,webm"})), "container mp4"),
        ("audio0", found(sound(), lost=5), "packets of sound at least 90, got 89"),
        ("audio0", found(sound(), broken=2), "packets that cannot be decoded 0, got 2"),
        ("thumbnails", Found(9, pictures=((160, 90),)), "pictures 4, got 1"),
        ("thumbnails", Found(9), "pictures 4, got 0"),
        ("sprite", Found(9, pictures=((96, 18), (96, 17))), r"the size \(96, 18\)"),
        ("subtitles0", Found(9), "WebVTT"),
    ],
)
def test_what_is_made_beside_the_pictures_is_looked_at_too(name: str, file: Found, said: str) -> None:
    with pytest.raises(ResultRejected, match=f"{name}: expected .*{said}"):
        check_content(BESIDE, {"audio0": found(sound())} | STILLS | TEXT | {name: file})


def test_uploads_are_bounded_well_above_the_bitrate() -> None:
    bits = (WORK.video[0].bitrate or 0) + 128_000
    assert upload_limit(WORK, "360p") == 2**20 + 4 * 2 * bits // 8


def test_what_has_no_bitrate_is_bounded_by_what_it_is() -> None:
    long = media(640, 360, duration_us=3600 * 10**6).model_copy(update={"duration_us": 3600 * 10**6})
    source = long.model_copy(update={"subtitles": (SubtitleStream(codec="subrip"),)})
    work = transcode_work(
        source, RenditionRequest(height=360), thumbnails={"interval": 10}, output={"container": "hls"}
    )
    assert upload_limit(work, "subtitles0") == 2**24
    assert upload_limit(work, "thumbnails") == 2**20 + 361 * 320 * 180 * 2


def test_a_flood_is_rejected_unread() -> None:
    limit = upload_limit(WORK, "240p")
    check_files(WORK, [*results("360p"), FileResult(name="240p", artifact=SHA, size=limit)])
    with pytest.raises(ResultRejected, match=f"240p: expected at most {limit} bytes, got {limit + 1}"):
        check_files(WORK, [*results("360p"), FileResult(name="240p", artifact=SHA, size=limit + 1)])


def test_outputs_must_be_those_of_the_model() -> None:
    work = inference_work()
    check_outputs(work, [tensor("y", 1.0, float("nan"))])
    wrong = Tensor(name="y", datatype=Datatype.INT32, shape=(1,), data=bytes(4))
    for given in ([], [tensor("x", 1.0)], [wrong], [tensor("y", 1.0)] * 2):
        with pytest.raises(ResultRejected, match="tensor"):
            check_outputs(work, given)
