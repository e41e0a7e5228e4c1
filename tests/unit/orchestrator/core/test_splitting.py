import heapq
from typing import Any

import pytest

from orchestrator.core.splitting import split
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import SubtitleRendition
from tandem.protocol.media import Layout
from tests.fixtures.protocol import media, transcode_work

SECOND = 10**6


def film(seconds: int, *, direct: bool = True, sound: bool = True, **facts: Any) -> TranscodeWork:
    source = media(sound=sound, frames=25 * seconds)
    audio = tuple(each.model_copy(update={"duration_us": seconds * SECOND}) for each in source.audio)
    source = source.model_copy(update={"duration_us": seconds * SECOND, "audio": audio} | facts)
    return transcode_work(source).model_copy(update={"direct": direct})


def every(seconds: float, until: int) -> list[int]:
    return [round(index * seconds * SECOND) for index in range(round(until / seconds))]


def lengths(seconds: int, speeds: list[float], *, direct: bool = True, cell: float = 2.0) -> list[float]:
    found = split(film(seconds, direct=direct), every(2, seconds), speeds, round(cell * SECOND))
    return [each.window.duration_us / SECOND for each in found.works if each.window and each.video]


def test_one_node_gets_a_whole_file() -> None:
    found = split(film(600), every(2, 600), [1.0], 2 * SECOND)
    assert (len(found.works), found.whole_because) == (1, "one node")


def test_captions_of_a_whole_file_come_apart_since_they_are_put_into_it_at_the_end() -> None:
    captioned = film(600).model_copy(update={"subtitles": (SubtitleRendition(name="subtitles0", track=0),)})
    beside, pictures = split(captioned, every(2, 600), [1.0], 2 * SECOND).works
    assert (beside.names, pictures.names) == (("audio0", "subtitles0"), tuple(each.name for each in captioned.video))
    assert (beside.direct, pictures.direct, pictures.window) == (False, False, None)


def test_windows_grow_smaller() -> None:
    assert lengths(120, [1.0, 1.0]) == [30, 22, 16, 12, 10, 8, 8, 8, 6]


@pytest.mark.parametrize("direct", [True, False])
def test_every_window_has_a_picture_however_long_one_is_shown(*, direct: bool) -> None:
    for seconds, shown in ((600, 15.0), (61, 1.5)):
        work = film(seconds, direct=direct)
        video = work.media.video.model_copy(update={"longest_us": round(shown * SECOND)}) if work.media.video else None
        work = work.model_copy(update={"media": work.media.model_copy(update={"video": video})})
        found = split(work, every(2, seconds), [1.0, 1.0], SECOND)
        windows = [each.window for each in found.works if each.window]
        assert len(windows) > 1
        assert all(each.duration_us >= shown * SECOND for each in windows)


def test_one_node_gets_short_windows_first_if_players_wait() -> None:
    assert lengths(200, [1.0], direct=False, cell=4.0) == [4, 4, 8, 16, 32, 60, 60, 16]


def test_a_slow_node_is_given_time_but_a_very_slow_one_is_not_waited_for() -> None:
    assert lengths(600, [1.0, 1.0, 0.25])[0] < lengths(600, [1.0, 1.0, 1.0])[0]
    assert lengths(600, [1.0, 1.0, 0.01]) == lengths(600, [1.0, 1.0])


def test_a_fast_node_is_not_given_crumbs() -> None:
    assert min(lengths(3600, [100.0, 100.0])[:-1]) >= 150


@pytest.mark.parametrize(
    ("work", "keyframes", "reason"),
    [
        (film(600, unsplittable="timestamps do not increase"), every(2, 600), "timestamps do not increase"),
        (film(15), every(2, 15), "too short"),
        (film(600), [], "no keyframes"),
        (film(600), [0], "too few keyframes"),
        (film(600).model_copy(update={"video": (), "direct": False}), every(2, 600), "no pictures"),
    ],
)
def test_what_cannot_be_split_is_one_task_and_says_why(work: TranscodeWork, keyframes: list[int], reason: str) -> None:
    assert split(work, keyframes, [1.0, 1.0], 2 * SECOND).whole_because == reason


def test_sound_is_a_task_of_its_own_and_comes_first() -> None:
    first, *others = split(film(120), every(2, 120), [1.0, 1.0], 2 * SECOND).works
    assert (first.video, len(first.audio), first.window) == ((), 1, None)
    assert all(each.window and not each.audio for each in others)


def test_what_is_played_first_comes_first_and_sound_is_cut_where_players_wait() -> None:
    found = split(film(600, direct=False), every(2, 600), [1.0, 1.0], 4 * SECOND).works
    assert [bool(each.audio) for each in found[:5]] == [True, False, False, True, True]
    heard = [each.window.duration_us // SECOND for each in found if each.audio and each.window]
    assert heard == [32, 128, 440]
    assert [each.begins for each in found[:3]] == [True, True, False]


@pytest.mark.parametrize("sound", [{"loudness": -16.0}, {"bitrate": None}])
def test_sound_that_is_measured_or_copied_is_not_cut(sound: dict[str, object]) -> None:
    work = film(600, direct=False)
    audio = tuple(each.model_copy(update=sound) for each in work.audio)
    found = split(work.model_copy(update={"audio": audio}), every(2, 600), [1.0, 1.0], 4 * SECOND).works
    assert [each.window for each in found if each.audio] == [None]


def test_cuts_are_near_keyframes() -> None:
    found = split(film(600), every(10, 600), [1.0, 1.0], 2 * SECOND)
    rolls = [each.window.start_us - each.seek_us for each in found.works if each.window and each.seek_us is not None]
    assert rolls
    assert max(rolls) <= 8 * SECOND
    assert sorted(rolls)[len(rolls) // 2] == 2 * SECOND


def test_nodes_fetch_only_what_they_need() -> None:
    keyframes = every(2, 120)
    layout = Layout(head=5000, tail=1_210_000, places=tuple(10_000 + 20_000 * index for index in range(60)))
    work = film(120, sound=False).model_copy(update={"source_size": 1_220_000})
    found = split(work, keyframes, [1.0, 1.0], 2 * SECOND, layout)
    first, second, *_, last = found.works
    assert first.ranges == ((0, 10_000 + 20_000 * 16), (1_210_000, 1_220_000))
    assert second.ranges == ((0, 5000), (10_000 + 20_000 * 14, 10_000 + 20_000 * 27), (1_210_000, 1_220_000))
    assert last.ranges == ((0, 5000), (10_000 + 20_000 * 56, 1_220_000))
    assert first.bytes_needed == 340_000
    assert work.bytes_needed == 1_220_000
    heard = film(120).model_copy(update={"source_size": 1_220_000})
    (sound, *_) = split(heard, keyframes, [1.0, 1.0], 2 * SECOND, layout).works
    assert sound.ranges == ()


@pytest.mark.parametrize(
    ("nodes", "least"),
    [([1.0] * 2, 1.8), ([1.0] * 4, 3.5), ([1.0] * 8, 6.5), ([1.0] * 16, 11.5), ([1, 1, 1, 0.5], 3.0)],
)
def test_all_nodes_end_at_about_the_same_time(nodes: list[float], least: float) -> None:
    """Simulated: 0.6 s of extra work a window, as measured."""
    free = [(0.0, speed) for speed in nodes]
    heapq.heapify(free)
    for length in lengths(600, nodes):
        at, speed = heapq.heappop(free)
        heapq.heappush(free, (at + (length + 0.6) / speed, speed))
    assert 600 / max(at for at, _ in free) >= least
