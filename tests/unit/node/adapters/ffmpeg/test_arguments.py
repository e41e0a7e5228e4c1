"""The command line of a transcode."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from node.adapters.ffmpeg.arguments import Means, build
from node.adapters.ffmpeg.encoders import VideoEncoder
from node.adapters.ffmpeg.hardware import Route
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import AudioRendition, Rendition
from tandem.protocol.media import AudioCodec, AudioStream, MediaInfo, VideoCodec, VideoStream

SOURCE, FOLDER = Path("/in/a:b -y"), Path("/out")
SOUND = AudioRendition(name="audio0", track=0, codec=AudioCodec.AAC, bitrate=96_000, channels=2, sample_rate=48_000)
STEREO = AudioStream(codec="aac", channels=2, sample_rate=48000)


def rendition(name: str, width: int, height: int, *, sound: bool = True, rate: int = 1_000_000) -> Rendition:
    return Rendition(
        name=name,
        width=width,
        height=height,
        codec=VideoCodec.H264,
        bitrate=rate,
        audio=("audio0",) if sound else (),
    )


def work(*ladder: Rendition, duration_us: int = 3_000_000) -> TranscodeWork:
    video = VideoStream(codec="h264", width=1280, height=720, frame_rate=(25, 1), frames=75)
    media = MediaInfo(format="mov", duration_us=duration_us, video=video, audio=(STEREO,))
    return TranscodeWork(
        source=f"sha256:{0:064}", source_size=1, media=media, video=ladder, audio=(SOUND,), direct=True
    )


MEANS = Means(SOURCE, FOLDER, threads=3)


def arguments(*ladder: Rendition, means: Means = MEANS) -> list[str]:
    return build(work(*ladder), means)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


def test_what_guards_the_input_stands_before_it() -> None:
    argv = arguments(rendition("a", 640, 360))
    head = argv[: argv.index("-i")]
    assert argv[argv.index("-i") + 1] == "file:/in/a:b -y"
    assert values(head, "-protocol_whitelist") == ["file"]
    assert "mov" in values(head, "-format_whitelist")[0].split(",")
    assert "magicyuv" not in values(head, "-codec_whitelist")[0].split(",")
    for option in ("-max_pixels", "-max_streams", "-max_alloc"):
        assert values(head, option)


def test_one_decode_feeds_every_rendition() -> None:
    argv = arguments(rendition("a", 640, 360), rendition("b", 320, 180, sound=False))
    pictures, sound = values(argv, "-filter_complex")
    assert values(argv, "-i") == ["file:/in/a:b -y"]
    assert pictures.count("[0:V:0]") == sound.count("[0:a:0]") == 1
    assert "[0:a:0]" not in pictures
    assert "split=2" in pictures
    assert sound.count("asplit=1") == 2  # of the track, and of the rendition
    assert "scale=640:360" in pictures
    assert "scale=320:180" in pictures
    assert [word for word in argv if word.endswith(".mp4")] == ["file:/out/a.mp4", "file:/out/b.mp4"]


def test_audio_renditions_of_one_track_have_filters_of_their_own() -> None:
    ladder = (rendition("a", 640, 360), rendition("b", 320, 180).model_copy(update={"audio": ("audio1",)}))
    lower = SOUND.model_copy(update={"name": "audio1", "bitrate": 64_000})
    for direct in (True, False):
        asked = work(*ladder).model_copy(update={"audio": (SOUND, lower), "direct": direct})
        _, sound = values(build(asked, MEANS), "-filter_complex")
        assert sound.count("[0:a:0]asplit=2") == 1
        assert sound.count("aresample") == 2


def test_an_output_is_bounded_from_its_first_frame() -> None:
    pictures, sound = values(arguments(rendition("a", 640, 360)), "-filter_complex")
    assert "trim=end=4.999000:start=-0.001000" in pictures
    assert "atrim=end=5.000000:start=0" in sound


def test_no_more_frames_are_encoded_than_are_paid_for() -> None:
    graphs = " ".join(values(arguments(rendition("a", 640, 360), rendition("b", 320, 180)), "-filter_complex"))
    assert graphs.count("trim=end_frame=128") == 2


def test_without_sound_there_is_no_trace_of_it() -> None:
    argv = arguments(rendition("a", 640, 360, sound=False))
    assert not [word for word in argv if ":a" in word and "whitelist" not in word and word != "file:/in/a:b -y"]


def test_a_hardware_encoder_leaves_tiny_pictures_to_the_processor() -> None:
    argv = arguments(
        rendition("a", 640, 360),
        rendition("b", 96, 54),
        means=replace(MEANS, route=Route.NVENC, encoders=tuple(VideoEncoder)),
    )
    assert values(argv, "-c:v") == ["h264_nvenc", "libx264"]
    assert values(argv, "-forced-idr") == ["1", "1"]
    assert values(argv, "-sc_threshold") == ["0"]


@given(
    width=st.integers(8, 4096).map(lambda half: 2 * half),
    rate=st.integers(16_000, 200_000_000),
    duration=st.integers(0, 12 * 3600 * 10**6),
)
def test_every_number_comes_out_plain(width: int, rate: int, duration: int) -> None:
    asked = rendition("a", width, 16, rate=rate)
    argv = build(work(asked, duration_us=duration), MEANS)
    assert values(argv, "-b:v") == [str(rate)]
    assert int(values(argv, "-maxrate:v")[0]) >= rate
    assert all(isinstance(word, str) and "None" not in word and "e+" not in word for word in argv)
