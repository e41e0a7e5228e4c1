from fractions import Fraction

import pytest
from pydantic import ValidationError

from tandem.protocol.errors import InvalidLadder
from tandem.protocol.media import (
    AudioCodec,
    AudioSettings,
    MediaInfo,
    Rendition,
    RenditionRequest,
    VideoCodec,
    VideoSettings,
    default_bitrate,
    default_ladder,
    output_pixels,
    plan_ladder,
)
from tests.fixtures.protocol import media


def sizes(source: MediaInfo) -> list[tuple[int, int]]:
    return [(rendition.width, rendition.height) for rendition in plan_ladder(source, None)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (media(1920, 1080), [(1920, 1080), (1280, 720), (854, 480), (640, 360)]),
        (media(7680, 4320), [(3840, 2160), (2560, 1440), (1920, 1080), (1280, 720)]),
        (media(1920, 1080, rotation=90), [(1080, 1920), (720, 1280), (480, 854), (360, 640)]),
        (media(720, 576, sample_aspect=(16, 15)), [(640, 480), (480, 360), (320, 240)]),
        (media(853, 481), [(852, 480), (638, 360), (426, 240)]),
        (media(103, 100), [(102, 100)]),
        (media(101, 75), [(100, 74)]),
        (media(16, 16), [(16, 16)]),
        (media(320, 239), [(318, 238)]),
        (media(16384, 480), [(8192, 240)]),
        (media(16000, 100), [(8000, 50)]),
    ],
    ids=["1080p", "8K", "upright", "anamorphic", "odd", "square", "tiny", "least", "small", "panorama", "strip"],
)
def test_the_default_ladder(source: MediaInfo, expected: list[tuple[int, int]]) -> None:
    assert sizes(source) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (media(15, 400), "at least 16 pixels a side, got 15x400"),
        (media(16384, 20), "at most 512 to 1"),
        (media(1280, 720, sample_aspect=(1, 10_000)), "at least 16 pixels"),
        (MediaInfo(format="mp3", duration_us=1, video=None), "a video stream, got none"),
    ],
)
def test_sources_of_which_nothing_can_be_made(source: MediaInfo, said: str) -> None:
    with pytest.raises(InvalidLadder, match=said):
        plan_ladder(source, None)


@pytest.mark.parametrize(("height", "said"), [(1080, "never upscaled"), (719, "even height"), (722, "of at most 720")])
def test_renditions_that_cannot_be_had(height: int, said: str) -> None:
    with pytest.raises(InvalidLadder, match=said):
        plan_ladder(media(), (RenditionRequest(height=height),))


def test_renditions_too_wide_for_an_encoder() -> None:
    with pytest.raises(InvalidLadder, match="at most 8192 pixels a side, got 16384x480"):
        plan_ladder(media(16384, 480), (RenditionRequest(height=480),))


def test_names_are_unique() -> None:
    twice = (RenditionRequest(height=360), RenditionRequest(height=240, name="360p"))
    with pytest.raises(InvalidLadder, match="a name of its own"):
        plan_ladder(media(), twice)


def test_what_is_asked_is_what_is_planned() -> None:
    asked = RenditionRequest(name="low", height=240, video=VideoSettings(bitrate=300_000), audio=None)
    (planned,) = plan_ladder(media(), (asked,))
    assert planned == Rendition(
        name="low",
        width=426,
        height=240,
        video_codec=VideoCodec.H264,
        video_bitrate=300_000,
        audio_codec=None,
        audio_bitrate=None,
    )
    assert planned.file_name == "low.mp4"


def test_no_sound_is_asked_of_a_silent_source() -> None:
    asked = RenditionRequest(height=240, audio=AudioSettings(bitrate=64_000))
    (silent,) = plan_ladder(media(sound=False), (asked,))
    (sounding,) = plan_ladder(media(), (asked,))
    assert (silent.audio_codec, silent.audio_bitrate) == (None, None)
    assert (sounding.audio_codec, sounding.audio_bitrate) == (AudioCodec.AAC, 64_000)


def test_an_unknown_frame_rate_is_taken_for_thirty() -> None:
    assert default_bitrate(1280, 720, Fraction(0)) == default_bitrate(1280, 720, Fraction(30)) == 2_490_000
    assert default_bitrate(1280, 720, Fraction(90_000)) == default_bitrate(1280, 720, Fraction(60))


def test_pixels_are_counted_by_frame() -> None:
    source = media(640, 360)
    assert output_pixels(source, plan_ladder(source, None)) == {VideoCodec.H264: 50 * (640 * 360 + 426 * 240)}


@pytest.mark.parametrize(
    "video",
    [
        {"frame_rate": (25, 0)},
        {"frame_rate": (-25, 1)},
        {"sample_aspect": (0, 1)},
        {"sample_aspect": (1, 0)},
        {"rotation": 45},
        {"frames": -1},
        {"width": 0},
    ],
)
def test_streams_that_would_break_arithmetic_are_refused(video: dict[str, object]) -> None:
    fields: dict[str, object] = {"codec": "h264", "width": 64, "height": 64, "frame_rate": (25, 1), "frames": 1}
    with pytest.raises(ValidationError):
        MediaInfo.model_validate({"format": "mp4", "duration_us": 1, "video": fields | video})


@pytest.mark.parametrize("wrong", [{"width": 641}, {"height": 361}, {"audio_bitrate": 64_000}])
def test_renditions_are_even_and_complete(wrong: dict[str, object]) -> None:
    (good,) = plan_ladder(media(640, 360, sound=False), (RenditionRequest(height=360),))
    with pytest.raises(ValidationError):
        Rendition.model_validate(good.model_dump() | wrong)


def test_the_default_ladder_has_four_steps_at_most() -> None:
    assert [request.height for request in default_ladder((3840, 2160))] == [2160, 1440, 1080, 720]
