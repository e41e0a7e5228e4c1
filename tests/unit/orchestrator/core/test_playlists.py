"""Playlists, manifest and indexes, from data alone."""

import re
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree as ET

import pytest

from orchestrator.core.packaging import Segment, Track
from orchestrator.core.playlists import MASTER, Heard, Presentation, Read, Shown, image_index, manifest, texts
from tandem.protocol.ladder import Sprite, Thumbnails

SOUND = Track(codec="mp4a.40.2", timescale=48_000, channels=2, sample_rate=48_000)


def shown(name: str, *sizes: int, codec: str = "avc1.64001f", seconds: float = 2) -> Shown:
    track = Track(codec=codec, timescale=90_000, width=640, height=360)
    ticks = round(seconds * 90_000)
    segments = tuple(Segment(start=n * ticks, duration=ticks, size=size) for n, size in enumerate(sizes))
    return Shown(name, track, segments, ("audio0",), Fraction(30_000, 1001))


def heard(count: int, language: str | None = "eng") -> Heard:
    segments = tuple(Segment(start=n * 96_000, duration=96_000, size=16_000) for n in range(count))
    return Heard("audio0", SOUND, segments, language)


PLAIN = Presentation((shown("360p", 250_000, 500_000, 250_000),), (heard(3),), (), 2.0, "m4s", ended=True)


def test_what_a_stream_declares_is_what_was_measured() -> None:
    lines = texts(PLAIN)["master.m3u8"].splitlines()
    variant = (
        '#EXT-X-STREAM-INF:BANDWIDTH=2064000,AVERAGE-BANDWIDTH=1397334,CODECS="avc1.64001f,mp4a.40.2",'
        'RESOLUTION=640x360,FRAME-RATE=29.970,AUDIO="audio0",CLOSED-CAPTIONS=NONE'
    )
    assert lines[-2:] == [variant, "360p/playlist.m3u8"]
    assert (
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio0",NAME="eng",LANGUAGE="eng",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",'
        'URI="audio0/playlist.m3u8"'
    ) in lines


def test_tracks_of_one_language_have_names_of_their_own() -> None:
    first, text = heard(3), Read("subtitles0", "fra", Fraction(6))
    audio = (first, replace(first, name="audio1"), replace(first, name="audio2", language="fra"))
    video = tuple(replace(each, audio=("audio0", "audio1", "audio2")) for each in PLAIN.video)
    master = texts(replace(PLAIN, video=video, audio=audio, text=(text, replace(text, name="subtitles1"))))[MASTER]
    named = re.findall(r'NAME="(.*?)"', master)
    assert named == ["audio0", "audio1", "fra", "subtitles0", "subtitles1"]


@pytest.mark.parametrize(("brightness", "said"), [("SDR", 0), ("PQ", 1), ("HLG", 1)])
def test_hdr_is_declared(brightness: str, said: int) -> None:
    (plain,) = PLAIN.video
    video = replace(plain, track=plain.track.model_copy(update={"range": brightness}))
    assert texts(replace(PLAIN, video=(video,)))[MASTER].count(f",VIDEO-RANGE={brightness},") == said


def test_no_segment_is_longer_than_the_target_says() -> None:
    video = shown("360p", 250_000, seconds=4.5)
    assert "TARGETDURATION:5" in texts(replace(PLAIN, video=(video,)))["360p/playlist.m3u8"]


def test_a_short_last_segment_is_no_peak() -> None:
    short = Segment(start=360_000, duration=3_000, size=50_000)  # by itself 12 Mbit/s
    track = replace(PLAIN.video[0], segments=(*shown("360p", 250_000, 250_000).segments, short))
    assert "BANDWIDTH=1244328," in texts(replace(PLAIN, video=(track,)))["master.m3u8"]


def test_a_playlist_that_grows_says_so_and_begins_at_the_beginning() -> None:
    growing = texts(replace(PLAIN, ended=False))
    assert "#EXT-X-START:TIME-OFFSET=0" in growing["master.m3u8"]
    assert growing["360p/playlist.m3u8"].splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        '#EXT-X-MAP:URI="init.mp4"',
        *("#EXTINF:2.000000,", "0.m4s", "#EXTINF:2.000000,", "180000.m4s", "#EXTINF:2.000000,", "360000.m4s"),
    ]


def test_all_tracks_end_where_the_shortest_has_come_to() -> None:
    longer = replace(PLAIN, video=(shown("360p", 1, 1, 1), shown("180p", 1, 1)), audio=(heard(5),), ended=False)
    assert {name: text.count("#EXTINF") for name, text in texts(longer.in_step()).items()} == {
        "master.m3u8": 0,
        "360p/playlist.m3u8": 2,
        "180p/playlist.m3u8": 2,
        "audio0/playlist.m3u8": 2,
    }


def test_captions_in_pictures_and_as_text_are_named() -> None:
    captioned = replace(PLAIN.video[0], track=PLAIN.video[0].track.model_copy(update={"captions": True}))
    found = texts(replace(PLAIN, video=(captioned,), text=(Read("subtitles0", "fra", Fraction(6)),)))
    assert 'TYPE=SUBTITLES,GROUP-ID="text",NAME="fra",LANGUAGE="fra"' in found["master.m3u8"]
    assert 'SUBTITLES="text",CLOSED-CAPTIONS="cc"' in found["master.m3u8"]
    assert "captions.vtt" in found["subtitles0/playlist.m3u8"]
    mixed = texts(replace(PLAIN, video=(captioned, *PLAIN.video)))["master.m3u8"]
    assert (mixed.count('CLOSED-CAPTIONS="cc"'), mixed.count("CLOSED-CAPTIONS=NONE")) == (1, 0)


def test_the_manifest_has_each_segment_at_its_time() -> None:
    late = replace(
        PLAIN.video[0], segments=(*shown("x", 1, 1).segments, Segment(start=400_000, duration=90_000, size=1))
    )
    other = shown("vp9", 1, codec="vp09.00.10.08")
    root = ET.fromstring(manifest(replace(PLAIN, video=(late, other))))  # noqa: S314 - our own
    space = {"": "urn:mpeg:dash:schema:mpd:2011"}
    sets = root.findall("./Period/AdaptationSet", space)
    assert [each.get("contentType") for each in sets] == ["video", "video", "audio"], "players switch within a codec"
    times = [each.attrib for each in sets[0].findall(".//S", space)]
    assert times == [{"t": "0", "d": "180000", "r": "1"}, {"t": "400000", "d": "90000"}]


@pytest.mark.parametrize(
    ("asked", "count", "last"),
    [
        (Thumbnails(interval_us=2_000_000, width=32, height=18), 3, "00:00:04.000 --> 00:00:05.000\nthumbnails/2.jpg"),
        (
            Sprite(interval_us=1_000_000, width=32, height=18, columns=2, rows=2),
            2,
            "00:00:04.000 --> 00:00:05.000\nthumbnails/1.jpg#xywh=0,0,32,18",
        ),
    ],
)
def test_an_index_says_which_picture_belongs_to_which_time(asked: Thumbnails, count: int, last: str) -> None:
    text = image_index("thumbnails", asked, count, 5_000_000)
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert text.rstrip().endswith(last)
