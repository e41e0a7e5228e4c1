"""Results that are not what was asked for, and honest ones of every codec, compared with the source."""

from pathlib import Path

import pytest

from orchestrator.core.comparing import Draws, comparison, judged, moment
from tandem.inspection.compared import Likeness
from tandem.inspection.media_child import probe
from tandem.inspection.result_child import look
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import RenditionRequest, Window
from tandem.protocol.media import Source, VideoCodec
from tests.fixtures import windows
from tests.fixtures.media import CLIPS, ffmpeg
from tests.fixtures.protocol import media, transcode_work

LATE = Draws(whether=0, where=0.99, how_far=0.6)
"""Of what `clip` makes: a second and a half after a keyframe of the source."""
GOOD = Likeness(decibels=45, error=1.4, unlike=0.3, spread=40, brightness=0, elsewhere=9, group_bits=9, bits=10**6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds that move."""
    path = tmp_path_factory.mktemp("compared") / "clip.mp4"
    cut = ("-ss", "2", "-t", "3", "-an", "-vf", "scale=320:180")
    ffmpeg("-i", CLIPS / "bbb_720p25_aac51.mp4", *cut, "-c:v", "libx264", "-crf", "12", "-g", "75", path)
    return path


def work_of(path: Path, codec: VideoCodec = VideoCodec.H264, clip: object = None) -> TranscodeWork:
    found = Source.model_validate(probe(path))
    video = {"codec": codec, "bitrate": 500_000}
    ladder = RenditionRequest.model_validate({"height": 180, "video": video, "audio": None})
    return transcode_work(found.media, ladder, gop_seconds=1, output={"container": "hls"}, clip=clip)


def faults(work: TranscodeWork, source: Path, made: Path, draws: Draws = LATE) -> list[object]:
    """What is wrong with it. The source has one keyframe, at its beginning."""
    chosen = moment(work, [work.media.origin_us], draws)
    assert chosen is not None
    (report,) = look([made], comparison(work, chosen, source))["files"]
    likeness = Likeness.model_validate(report["likeness"])
    return [got for _, _, got, fine in judged(work, work.video[0], likeness) if not fine]


@pytest.mark.parametrize("codec", list(VideoCodec))
def test_an_honest_result_is_like_its_source(clip: Path, tmp_path: Path, codec: VideoCodec) -> None:
    work = work_of(clip, codec)
    made = windows.deliver(work, clip, tmp_path)["180p"]
    for draws in (LATE, Draws(0, 0, 0)):
        assert faults(work, clip, made, draws) == []


def test_also_of_a_part_of_it(clip: Path, tmp_path: Path) -> None:
    whole, part = work_of(clip), work_of(clip, clip={"start": 0.7, "end": 2.1})
    window = Window(start_us=whole.origin_us + 1_000_000, end_us=whole.origin_us + 2_000_000)
    for work in (part, whole.model_copy(update={"window": window})):
        assert faults(work, clip, windows.deliver(work, clip, tmp_path)["180p"], Draws(0, 0.5, 0.5)) == []


CHEATS = {
    "black": "drawbox=color=black:t=fill",
    "another video": "negate,hue=h=90,rotate=PI/2",
    "a box": "drawbox=w=iw/3:h=ih/3:color=white:t=fill",
    "another picture": "loop=100:1:0,hflip,crop=iw/2:ih/2,scale=320:180",
    "a second late": "tpad=start_duration=1:start_mode=clone",
    "a second early": "trim=start=1,setpts=PTS-STARTPTS,tpad=stop_duration=1",
}


@pytest.mark.parametrize("cheat", list(CHEATS))
def test_a_picture_that_is_not_the_one_asked_for_is_refused(clip: Path, tmp_path: Path, cheat: str) -> None:
    work = work_of(clip)
    other = tmp_path / "other.mp4"
    ffmpeg("-i", clip, "-vf", CHEATS[cheat], "-frames:v", "75", "-c:v", "libx264", "-crf", "12", other)
    made = windows.deliver(work, other, tmp_path)["180p"]
    assert faults(work, clip, made)


@pytest.mark.parametrize("codec", list(VideoCodec))
def test_a_tenth_of_the_bits_is_refused_where_it_shows(clip: Path, tmp_path: Path, codec: VideoCodec) -> None:
    work = work_of(clip, codec)
    cheap = work.model_copy(update={"video": (work.video[0].model_copy(update={"bitrate": 40_000}),)})
    (told,) = faults(work, clip, windows.deliver(cheap, clip, tmp_path)["180p"])
    assert "dB" in str(told)


@pytest.mark.parametrize("codec", list(VideoCodec))
def test_a_still_picture_may_take_few_bits(clip: Path, tmp_path: Path, codec: VideoCodec) -> None:
    still = tmp_path / "still.mp4"
    ffmpeg("-i", clip, "-vf", "loop=100:1:0", "-frames:v", "75", "-c:v", "libx264", "-crf", "12", still)
    work = work_of(still, codec)
    rich = work.model_copy(update={"video": (work.video[0].model_copy(update={"bitrate": 4_000_000}),)})
    assert faults(rich, still, windows.deliver(rich, still, tmp_path)["180p"]) == []


def test_noise_that_takes_more_bits_than_there_are_is_taken() -> None:
    work = transcode_work(media(640, 360), RenditionRequest(height=360, audio=None))
    noise = replaced(decibels=17, error=36, unlike=5.9, spread=8.1)
    assert all(fine for *_, fine in judged(work, work.video[0], noise))
    other = replaced(decibels=17, error=12, unlike=5.9, spread=8.1)
    assert not all(fine for *_, fine in judged(work, work.video[0], other))


def test_pictures_of_almost_no_bits_may_be_unlike_their_source() -> None:
    video = {"codec": "h264", "bitrate": 30_000}
    ladder = RenditionRequest.model_validate({"height": 360, "video": video, "audio": None})
    work = transcode_work(media(640, 360), ladder)
    assert all(fine for *_, fine in judged(work, work.video[0], replaced(decibels=22, error=19, unlike=12, spread=20)))


def replaced(**fields: float) -> Likeness:
    return GOOD.model_copy(update=fields)


def test_any_picture_may_be_looked_at_and_short_windows_only_now_and_then() -> None:
    work = transcode_work(media(640, 360), RenditionRequest(height=360, audio=None), output={"container": "hls"})
    keys = [0, 1_200_000]
    found = {moment(work, keys, Draws(1 - 1e-9, where / 8, far / 8)) for where in range(8) for far in range(8)}
    assert len(found) > 10
    assert all(each is not None and 0 <= each.at_us < 2_000_000 for each in found)
    assert {each.seek_us for each in found if each} == {0, 1_200_000}
    window = work.model_copy(update={"window": Window(start_us=0, end_us=1_500_000)})
    assert moment(window, keys, Draws(0.04, 0, 0)) is not None
    assert moment(window, keys, Draws(0.06, 0, 0)) is None


def test_what_cannot_be_compared_is_not() -> None:
    for work in (
        transcode_work(media(640, 360).model_copy(update={"unsplittable": "a clock that jumps"})),
        transcode_work(media(640, 360)).model_copy(update={"video": ()}),
    ):
        assert moment(work, [0], LATE) is None
