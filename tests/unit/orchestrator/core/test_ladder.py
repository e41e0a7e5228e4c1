from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.core.ladder import default_bitrate, default_ladder
from tandem.protocol.errors import InvalidLadder
from tandem.protocol.ladder import AudioSettings, PixelFormat, Profile, Rendition, RenditionRequest, VideoSettings
from tandem.protocol.media import AudioCodec, MediaInfo, VideoCodec
from tests.fixtures.protocol import media, transcode_work


def plan(source: MediaInfo, *ladder: RenditionRequest, **asked: object) -> tuple[Rendition, ...]:
    return transcode_work(source, *ladder, **asked).video


def sizes(source: MediaInfo) -> list[tuple[int, int]]:
    return [(rendition.width, rendition.height) for rendition in plan(source)]


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
        plan(source)


@pytest.mark.parametrize(("height", "said"), [(1080, "never upscaled"), (719, "even height"), (722, "of at most 720")])
def test_renditions_that_cannot_be_had(height: int, said: str) -> None:
    with pytest.raises(InvalidLadder, match=said):
        plan(media(), RenditionRequest(height=height))


def test_renditions_too_wide_for_an_encoder() -> None:
    with pytest.raises(InvalidLadder, match="at most 8192 pixels a side, got 16384x480"):
        plan(media(16384, 480), RenditionRequest(height=480))


def test_names_are_unique() -> None:
    twice = (RenditionRequest(height=360), RenditionRequest(height=240, name="360p"))
    with pytest.raises(InvalidLadder, match="a name of its own"):
        plan(media(), *twice)


def test_what_is_asked_is_what_is_planned() -> None:
    asked = RenditionRequest(name="low", height=240, video=VideoSettings(bitrate=300_000), audio=None)
    (planned,) = plan(media(), asked)
    assert planned == Rendition(
        name="low", width=426, height=240, codec=VideoCodec.H264, bitrate=300_000, profile=Profile.HIGH
    )


def test_no_sound_is_asked_of_a_silent_source() -> None:
    asked = RenditionRequest(height=240, audio=AudioSettings(bitrate=64_000))
    silent, sounding = transcode_work(media(sound=False), asked), transcode_work(media(), asked)
    assert (silent.audio, silent.video[0].audio) == ((), ())
    assert sounding.video[0].audio == ("audio0",)
    assert [(each.codec, each.bitrate, each.channels) for each in sounding.audio] == [(AudioCodec.AAC, 64_000, 2)]


def test_an_unknown_frame_rate_is_taken_for_thirty() -> None:
    assert default_bitrate((1280, 720), Fraction(0)) == default_bitrate((1280, 720), Fraction(30)) == 2_490_000
    assert default_bitrate((1280, 720), Fraction(90_000)) == default_bitrate((1280, 720), Fraction(60))


def test_pixels_are_counted_by_frame() -> None:
    assert transcode_work(media(640, 360)).pixels() == {VideoCodec.H264: 50 * (640 * 360 + 426 * 240)}


@pytest.mark.parametrize(
    ("video", "said"),
    [
        ({"codec": "vp9", "profile": "main"}, "a profile cannot be set for vp9"),
        ({"profile": "main10"}, r"a profile of h264 with yuv420p \(high, main, baseline\), got main10"),
        ({"codec": "hevc", "profile": "main", "pixel_format": "yuv420p10le"}, r"\(main10\), got main"),
        ({"quality": 52}, "a quality of h264 from 0 to 51"),
        ({"level": "9"}, "a level of h264 out of 1, 1.1"),
        ({"level": "2.1"}, "level 2.1 holds no picture of 1280x720; ask for level 3.1"),
        ({"level": 3.1, "bitrate": 20_000_000}, "at most 14000000 bits a second, got 30000000 at the peak"),
        ({"codec": "av1", "level": "4"}, "a level cannot be set for av1"),
        ({"fps": 30}, "at most the source's 25 frames a second, got 30"),
    ],
)
def test_combinations_that_cannot_be_had_are_refused(video: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidLadder, match=f"rendition 720p: .*{said}"):
        plan(media(), RenditionRequest.model_validate({"height": 720, "video": video}))


def test_a_level_too_low_for_the_frame_rate_names_one_that_will_do() -> None:
    fast = media(1920, 1080, frame_rate=(60, 1))
    with pytest.raises(InvalidLadder, match=r"too low for 60 frames a second of 1920x1080; ask for level 4[.]2"):
        plan(fast, RenditionRequest(height=1080, video=VideoSettings(level="4.1")))


HDR: dict[str, Any] = {
    "color": {"transfer": "smpte2084"},
    "pixel_format": "yuv420p10le",
    "bit_depth": 10,
    "codec": "hevc",
}


def test_hdr_becomes_sdr_unless_it_is_to_be_kept() -> None:
    asked = RenditionRequest(height=720, video=VideoSettings(codec=VideoCodec.HEVC))
    mapped, kept = transcode_work(media(**HDR), asked), transcode_work(media(**HDR), asked, hdr="keep")
    assert (mapped.picture.tone_map, mapped.video[0].pixel_format) == (True, PixelFormat.YUV420P)
    assert (kept.picture.tone_map, kept.video[0].profile) == (False, Profile.MAIN10)


@pytest.mark.parametrize(
    ("video", "said"),
    [({}, "HDR cannot be kept in h264"), ({"codec": "hevc", "pixel_format": "yuv420p"}, "cannot be kept in 8 bits")],
)
def test_hdr_that_cannot_be_kept_is_refused(video: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidLadder, match=said):
        plan(media(**HDR), RenditionRequest.model_validate({"height": 720, "video": video}), hdr="keep")


@pytest.mark.parametrize("wrong", [{"width": 641}, {"height": 361}, {"bitrate": None}, {"max_bitrate": 10**6}])
def test_renditions_are_even_and_complete(wrong: dict[str, object]) -> None:
    (good,) = plan(media(640, 360), RenditionRequest(height=360))
    with pytest.raises(ValidationError):
        Rendition.model_validate(good.model_dump() | wrong)


def test_the_default_ladder_has_four_steps_at_most() -> None:
    assert [request.height for request in default_ladder((3840, 2160))] == [2160, 1440, 1080, 720]


def bitrates(complexity: int | None, **video: Any) -> list[int | None]:
    source = media(1920, 1080, **video).model_copy(update={"complexity": complexity})
    return [each.bitrate for each in plan(source)]


def test_bitrates_follow_how_hard_a_video_is_to_encode() -> None:
    ordinary = bitrates(None)
    assert ordinary == bitrates(128_000) == [default_bitrate(size, Fraction(25)) for size in sizes(media(1920, 1080))]
    for harder, factor in ((64_000, 0.5), (1000, 0.4), (10**9, 1.6)):
        assert [each or 0 for each in bitrates(harder)] == pytest.approx(
            [factor * (rate or 0) for rate in ordinary], abs=10_001
        )


def test_small_pictures_of_a_fast_source_have_half_the_frames() -> None:
    fast = plan(media(1920, 1080, frame_rate=(60_000, 1001)))
    assert [(each.height, each.fps) for each in fast] == [(1080, None), (720, None), (480, None), (360, (30_000, 1001))]
    assert all(each.fps is None for each in plan(media(1920, 1080, frame_rate=(60, 1), variable_rate=True)))


def test_a_rate_beyond_belief_is_left_as_it_is() -> None:
    assert all(each.fps is None for each in plan(media(1920, 1080, frame_rate=(10**7, 1))))


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_pictures_too_small_for_an_encoder_are_refused(codec: str) -> None:
    with pytest.raises(InvalidLadder, match=f"at least 64 pixels a side for {codec}, got 48x32"):
        plan(media(48, 32), RenditionRequest.model_validate({"height": 32, "video": {"codec": codec}}))
