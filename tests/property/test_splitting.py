"""However a source and its nodes are, the windows of a split job are its pictures, each once, on the grid."""

from bisect import bisect_left
from itertools import pairwise

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestrator.core.splitting import Split, split
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import Poster, Stills, Window
from tandem.protocol.units import ceil_div
from tests.fixtures.protocol import media, transcode_work

SECOND = 10**6
speeds = st.lists(st.floats(0.05, 500), min_size=1, max_size=32)
several = st.lists(st.floats(0.05, 500), min_size=2, max_size=32)
of_split_jobs = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
"""Jobs that are rightly left whole say nothing here."""
cells = st.sampled_from([500_000, 1_001_000, 2 * SECOND, 6 * SECOND])


@st.composite
def works(draw: st.DrawFn) -> tuple[TranscodeWork, list[int]]:
    """With the keyframes of its source."""
    origin = draw(st.integers(-SECOND, 10 * SECOND))
    duration = draw(st.integers(20 * SECOND, 4 * 3600 * SECOND))
    source = media(start_us=origin, frames=ceil_div(duration, 40_000)).model_copy(update={"duration_us": duration})
    work = transcode_work(source)
    gap = draw(st.integers(SECOND // 2, 12 * SECOND))
    keyframes = list(range(origin, origin + duration, gap))
    extra: dict[str, object] = (
        {"stills": Stills(poster=Poster(at_us=origin, width=320, height=180))} if draw(st.booleans()) else {}
    )
    if draw(st.booleans()):
        start = draw(st.integers(0, duration - 18 * SECOND))
        length = draw(st.integers(17 * SECOND, duration - start))
        extra["clip"] = Window(start_us=origin + start, end_us=origin + start + length)
    return TranscodeWork.model_validate(dict(work) | {"direct": draw(st.booleans())} | extra), keyframes


def windows(found: Split) -> list[Window]:
    return [work.window for work in found.works if work.window]


@given(works(), speeds, cells)
@settings(max_examples=60, deadline=None)
def test_the_windows_are_the_job_once_on_the_grid(
    given_work: tuple[TranscodeWork, list[int]], nodes: list[float], cell: int
) -> None:
    work, keyframes = given_work
    found = split(work, keyframes, nodes, cell)
    if found.whole_because is not None:
        assert found.works == (work,)
        return
    cut = windows(found)
    assert len(cut) >= 2
    assert cut[0].start_us == work.origin_us
    assert cut[-1].end_us == work.origin_us + work.duration_us
    assert all(first.end_us == second.start_us for first, second in pairwise(cut))
    assert all((window.start_us - work.origin_us) % cell == 0 for window in cut)
    assert len(cut) <= 700
    assert sum(each.duration_us for each in found.works if each.window) == work.duration_us


@given(works(), several, cells)
@of_split_jobs
def test_every_part_is_made_once_and_decoding_begins_at_the_last_keyframe_before(
    given_work: tuple[TranscodeWork, list[int]], nodes: list[float], cell: int
) -> None:
    work, keyframes = given_work
    found = split(work, keyframes, nodes, cell)
    assume(found.whole_because is None)
    pieces = [each for each in found.works if each.window]
    rest = [each for each in found.works if not each.window]
    assert all(piece.video == work.video and piece.picture == work.picture for piece in pieces)
    assert tuple(sound for each in rest for sound in each.audio) == work.audio
    assert [each.stills for each in rest if each.stills] == ([work.stills] if work.stills else [])
    for piece in pieces:
        assert piece.window
        before = bisect_left(keyframes, piece.window.start_us)
        assert piece.seek_us == (keyframes[before - 1] if before else None)
    for rendition in work.video:
        assert sum(piece.frames_of(rendition) for piece in pieces) == work.frames_of(rendition)


@given(works(), several, cells)
@of_split_jobs
def test_windows_are_neither_too_short_nor_too_long(
    given_work: tuple[TranscodeWork, list[int]], nodes: list[float], cell: int
) -> None:
    work, keyframes = given_work
    found = split(work.model_copy(update={"direct": True}), keyframes, nodes, cell)
    assume(found.whole_because is None)
    *some, last = (window.duration_us for window in windows(found))
    assert min(some) >= 6 * SECOND
    assert last >= 4 * SECOND - cell
    longest = max(300 * SECOND, 2 * SECOND * max(nodes), work.duration_us // 500)
    assert max(some) <= longest + cell
