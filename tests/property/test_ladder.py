"""Ladders of any source: even, in bounds, never upscaled, in the source's shape."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.ladder import default_bitrate, default_ladder
from tandem.protocol.errors import InvalidLadder
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import MAX_SIDE, MIN_SIDE, RenditionRequest
from tandem.protocol.media import MediaInfo
from tests.fixtures.protocol import transcode_work
from tests.property.strategies import media_infos

modest = settings(max_examples=40, deadline=None)


def well_formed(media: MediaInfo, work: TranscodeWork) -> None:
    ladder = work.video
    assert media.video is not None
    source = media.video.display_size
    for rendition in ladder:
        assert rendition.width <= source[0]
        assert rendition.height <= source[1]
        assert not rendition.width % 2
        assert not rendition.height % 2
        assert max(rendition.width, rendition.height) <= MAX_SIDE
        shorter, longer = sorted(source)
        exact = Fraction(min(rendition.width, rendition.height) * longer, shorter)
        assert abs(max(rendition.width, rendition.height) - exact) <= 2
        assert bool(rendition.audio) is bool(media.audio)


@modest
@given(media_infos)
def test_every_ordinary_source_has_a_default_ladder(media: MediaInfo) -> None:
    assert media.video is not None
    source = media.video.display_size
    ordinary = min(source) >= MIN_SIDE and max(source) * (MIN_SIDE + 2) <= min(source) * MAX_SIDE
    try:
        work = transcode_work(media)
    except InvalidLadder:
        assert not ordinary
        return
    well_formed(media, work)
    heights = [min(r.width, r.height) for r in work.video]
    assert heights == sorted(set(heights), reverse=True)
    assert 1 <= len(work.video) <= 4


@modest
@given(media_infos, st.lists(st.integers(MIN_SIDE, MAX_SIDE), min_size=1, max_size=4))
def test_an_asked_ladder_is_planned_or_refused(media: MediaInfo, heights: list[int]) -> None:
    try:
        work = transcode_work(media, *(RenditionRequest(height=height) for height in heights))
    except InvalidLadder:
        return
    well_formed(media, work)
    assert [min(r.width, r.height) for r in work.video] == heights
    assert media.video is not None
    frames = media.video.frames
    assert sum(work.pixels().values()) == sum(r.width * r.height * frames for r in work.video)


@modest
@given(
    st.integers(MIN_SIDE, MAX_SIDE),
    st.integers(MIN_SIDE, MAX_SIDE),
    st.fractions(0, 1000, max_denominator=1001),
)
def test_bitrates_are_in_bounds_and_grow_with_the_picture(width: int, height: int, rate: Fraction) -> None:
    bitrate = default_bitrate((width, height), rate)
    assert 100_000 <= bitrate <= 200_000_000
    assert bitrate % 10_000 == 0
    assert bitrate >= default_bitrate((width // 2, height // 2), rate)


@modest
@given(st.integers(MIN_SIDE, 20_000), st.integers(MIN_SIDE, 20_000))
def test_the_ladder_does_not_care_which_way_the_picture_stands(width: int, height: int) -> None:
    try:
        ladder = default_ladder((width, height))
    except InvalidLadder:
        return
    assert ladder == default_ladder((height, width))
