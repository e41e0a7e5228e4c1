"""What is asked beside the ladder: decided, or refused with a reason."""

from typing import Any

import pytest

from tandem.protocol.errors import InvalidLadder, InvalidRequest
from tandem.protocol.ladder import RenditionRequest, Window
from tandem.protocol.media import AudioCodec, AudioStream, FieldOrder, SubtitleStream
from tests.fixtures.protocol import media, transcode_work

ASKED = RenditionRequest(height=360)
HLS = {"container": "hls"}


def sound(**facts: Any) -> AudioStream:
    return AudioStream.model_validate({"codec": "aac", "channels": 2, "sample_rate": 44_100} | facts)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"clip": {"start": 1.95}}, "clip: expected at least 0.1 s within the source's 2 s"),
        ({"clip": {"start": 1, "end": 9}}, "an end within the source's 2 s, got 1 to 9; leave it out"),
        ({"audio_tracks": [1]}, "audio_tracks: expected decodable ones of the source's 1 tracks"),
        ({"audio_tracks": [0, 0]}, "each once"),
        ({"poster": {"at": 2.0}}, "poster: expected a time within 2 s, got 2"),
        ({"output": {"container": "dash", "segment_format": "ts"}}, "segment format fmp4 for dash"),
        ({"output": HLS | {"segment_seconds": 3}, "gop_seconds": 2}, "a whole number of GOPs"),
    ],
)
def test_what_cannot_be_had_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        transcode_work(media(), ASKED, **asked)


@pytest.mark.parametrize(
    "rendition",
    [
        {"height": 360, "video": {"codec": "hevc"}},
        {"height": 360, "audio": {"codec": "opus"}},
    ],
)
def test_ts_segments_hold_what_players_take(rendition: dict[str, Any]) -> None:
    with pytest.raises(InvalidLadder, match="expected h264 and aac in ts segments"):
        transcode_work(media(), RenditionRequest.model_validate(rendition), output=HLS | {"segment_format": "ts"})


@pytest.mark.parametrize("name", ["audio0", "poster"])
def test_a_rendition_is_not_named_like_another_file(name: str) -> None:
    with pytest.raises(InvalidLadder, match="a name of its own"):
        transcode_work(media(), RenditionRequest(height=360, name=name))


def test_a_clip_is_on_the_sources_timeline_and_begins_at_a_keyframe_before_it() -> None:
    late = media(start_us=7_000_000)
    assert transcode_work(late, ASKED, clip={"start": 0.5}).clip == Window(start_us=7_500_000, end_us=9_000_000)
    assert transcode_work(late, ASKED, clip={"start": 0.5}).seek_us is None


def test_interlace_is_undone() -> None:
    assert transcode_work(media(field_order=FieldOrder.TOP_FIRST), ASKED).picture.deinterlace
    assert not transcode_work(media(), ASKED).picture.deinterlace


def test_renditions_share_their_sound() -> None:
    ladder = [RenditionRequest(height=height) for height in (360, 240)]
    loud = RenditionRequest.model_validate({"height": 144, "audio": {"loudness": -16, "codec": "opus"}})
    work = transcode_work(media(), *ladder, loud, RenditionRequest(height=100, audio=None))
    assert [(each.name, each.codec, each.bitrate) for each in work.audio] == [
        ("audio0", AudioCodec.AAC, 128_000),
        ("audio1", AudioCodec.OPUS, 96_000),
    ]
    assert [each.audio for each in work.video] == [("audio0",), ("audio0",), ("audio1",), ()]


@pytest.mark.parametrize(
    ("stream", "audio", "expected"),
    [
        (sound(channels=6), {}, (2, 44_100, 128_000)),
        (sound(channels=6), {"channels": 6}, (6, 44_100, 384_000)),
        (sound(channels=5), {"channels": 6}, (2, 44_100, 128_000)),
        (sound(channels=1), {}, (1, 44_100, 64_000)),
        (sound(sample_rate=96_000), {}, (2, 48_000, 128_000)),
        (sound(), {"codec": "opus"}, (2, 48_000, 96_000)),
        (sound(), {"passthrough": True}, (2, 44_100, None)),
        (sound(), {"passthrough": True, "loudness": -16}, (2, 44_100, 128_000)),
        (sound(channels=6), {"passthrough": True}, (2, 44_100, 128_000)),
        (sound(codec="mp3"), {"passthrough": True}, (2, 44_100, 128_000)),
        (sound(start_us=80_000), {"passthrough": True}, (2, 44_100, 128_000)),
        (sound(sample_rate=7350), {"passthrough": True}, (2, 48_000, 128_000)),
    ],
)
def test_sound_is_copied_only_where_that_is_right(
    stream: AudioStream, audio: dict[str, Any], expected: tuple[int, int, int | None]
) -> None:
    asked = RenditionRequest.model_validate({"height": 360, "audio": audio})
    (made,) = transcode_work(media().model_copy(update={"audio": (stream,)}), asked).audio
    assert (made.channels, made.sample_rate, made.bitrate) == expected


def test_there_are_only_so_many_renditions_of_sound() -> None:
    source = media().model_copy(update={"audio": (sound(),) * 8})
    ladder = [
        RenditionRequest.model_validate({"height": height, "audio": {"bitrate": 400 * height}})
        for height in (360, 240, 144)
    ]
    with pytest.raises(InvalidLadder, match="at most 16 audio renditions, got 24: 8 tracks with 3 different settings"):
        transcode_work(source, *ladder, audio_tracks=list(range(8)))


def test_more_bits_than_opus_has_are_refused() -> None:
    asked = RenditionRequest.model_validate({"height": 360, "audio": {"codec": "opus", "bitrate": 512_001}})
    with pytest.raises(InvalidLadder, match="at most 512000 bits a second of opus for 2 channels, got 512001"):
        transcode_work(media(), asked)


def test_the_default_track_is_one_that_can_be_decoded() -> None:
    streams = (sound(decodable=False, default=True), sound(language="deu"), sound(default=True, language="eng"))
    work = transcode_work(media().model_copy(update={"audio": streams}), ASKED)
    assert [(each.track, each.language) for each in work.audio] == [(2, "eng")]


def test_text_is_carried_where_the_output_can() -> None:
    texts = (SubtitleStream(codec="subrip", language="fra"), SubtitleStream(codec="dvd_subtitle", text=False))
    source = media().model_copy(update={"subtitles": texts})
    carried = transcode_work(source, ASKED, output=HLS).subtitles
    assert [(each.name, each.track, each.language) for each in carried] == [("subtitles0", 0, "fra")]
    assert transcode_work(source, ASKED, output=HLS, subtitles=False).subtitles == ()


def test_stills_are_never_upscaled() -> None:
    work = transcode_work(media(320, 180), RenditionRequest(height=180), thumbnails={"height": 360}, poster={})
    assert work.stills is not None
    assert work.stills.thumbnails is not None
    assert work.stills.poster is not None
    assert (work.stills.thumbnails.width, work.stills.thumbnails.height) == (320, 180)
    assert (work.stills.poster.at_us, work.stills.poster.height) == (200_000, 180)


def test_stills_of_very_long_pictures_are_smaller() -> None:
    work = transcode_work(media(640, 480, sample_aspect=(100, 1)), RenditionRequest(height=60), poster={})
    assert work.stills is not None
    assert work.stills.poster is not None
    assert (work.stills.poster.width, work.stills.poster.height) == (8000, 60)


def test_a_sprite_that_no_jpeg_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="sprite: expected at most 16384 pixels a side, got 40960x5760"):
        transcode_work(media(5120, 720), ASKED, sprite={"height": 360, "columns": 16, "rows": 16, "interval": 1})
