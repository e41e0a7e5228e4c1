"""A transcode as one task or as many: windows of its pictures, cut where the source's keyframes make it cheap.

Windows begin and end on the grid of the job's GOPs (of its segments, if it has any), so that each begins with a
keyframe of every rendition, as in one run. Decoding begins at a keyframe strictly before the window: pictures that lead
an open GOP are then decoded with all that they refer to.

Where players wait for it, sound is cut too: first as much as is played while its next window is made, then ever more.

Large windows come first and small ones last, so that no node ends long after the others: each window is half of what
the slowest node would get of the rest. Extra CPU by length of window: 16 s 8 %, 8 s 12 %, 4 s 22 % (measured).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tandem.protocol.jobs import ByteRange, TranscodeWork
from tandem.protocol.ladder import Window
from tandem.protocol.media import Layout
from tandem.protocol.units import ceil_div

_MICRO = 10**6
_SHORTEST_US = 8 * _MICRO
"""Shorter windows cost too much extra work."""
_SHORTEST_SECONDS = 2.0
"""Nor may a node be done sooner than that: beginning and handing over take time too."""
_LONGEST_US = 300 * _MICRO
_LONGEST_STREAMED_US = 60 * _MICRO
"""Where players wait for it."""
_MOST_WINDOWS = 500
_FIRST_SOUND_US = 30 * _MICRO
_SOUND_GROWTH = 4
"""Of each window of sound to the next: what comes before it is decoded again, and it is played as long."""
_SLOW = 1 / 8
"""Of the fastest node: one slower than that is not planned for, though it may get a window all the same."""
_LEEWAY = 4
"""A cut is moved by up to a fourth of its window to be nearer to a keyframe."""
_NEARLY_ALL = 3 / 4
_MOST_PREROLL = 1 / 2
"""Of the job's duration: what is decoded only to get to the windows."""


@dataclass(frozen=True, slots=True)
class Split:
    """The tasks of a job; of a single one, why it is not split."""

    works: tuple[TranscodeWork, ...]
    whole_because: str | None = None


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of windows, in cells of the grid."""

    least: int
    most: int
    share: float
    """Of what is left."""
    first: int | None
    """Of the shortest one, where it begins with short ones, so that players may begin soon."""


def split(
    work: TranscodeWork,
    keyframes: Sequence[int],
    speeds: Sequence[float],
    cell_us: int,
    layout: Layout | None = None,
) -> Split:
    """Splits a whole transcode over nodes that encode it at `speeds`, in seconds of it a second.

    `keyframes`: presentation times in µs, ascending, at which decoding of the source may begin. `cell_us`: the length
    of a segment, or of a GOP where there are no segments. `layout` has the places of the keyframes in the source; nodes
    then fetch only the bytes that they need.
    """
    reason = _indivisible(work, keyframes, speeds, cell_us)
    if reason is not None:
        return Split(_whole(work), reason)
    cuts = list(_cuts(work, keyframes, _sizes(work, speeds, cell_us), cell_us))
    windows = [Window(start_us=start, end_us=end) for start, end in pairwise(cuts)]
    if len(windows) < 2:  # noqa: PLR2004
        return Split(_whole(work), "too short")
    if sum(_preroll(work, keyframes, window.start_us) for window in windows) > _MOST_PREROLL * work.duration_us:
        return Split(_whole(work), "too few keyframes")
    pieces = [_piece(work, window, keyframes, layout) for window in windows]
    rest = list(_rest(work, cell_us))
    # The second window is played long before the second one of sound.
    return Split((*rest[:1], *pieces[:2], *rest[1:], *pieces[2:]) if not work.direct else (*rest, *pieces))


_ONLY_PICTURES: dict[str, object] = {"audio": (), "subtitles": (), "stills": None, "direct": False}


def _indivisible(work: TranscodeWork, keyframes: Sequence[int], speeds: Sequence[float], cell_us: int) -> str | None:
    if not work.video:
        return "no pictures"
    if not work.media.splittable:
        return work.media.unsplittable or "no pictures"
    if not keyframes:
        return "no keyframes"
    if len(speeds) < 2 and work.direct:  # noqa: PLR2004
        return "one node"
    return "too short" if work.duration_us < 2 * max(cell_us, _SHORTEST_US) else None


def _sizes(work: TranscodeWork, speeds: Sequence[float], cell_us: int) -> _Sizes:
    able = [speed for speed in speeds if speed >= _SLOW * max(speeds)] or [1.0]
    shortest = max(
        _SHORTEST_US,
        int(_SHORTEST_SECONDS * median(able) * _MICRO),
        work.duration_us // _MOST_WINDOWS,
        2 * _longest(work),  # each must have a picture
    )
    longest = max(shortest, _LONGEST_US if work.direct else _LONGEST_STREAMED_US)
    least = ceil_div(shortest, cell_us)
    return _Sizes(
        least=least,
        most=ceil_div(longest, cell_us),
        share=min(able) / sum(able) / 2 if len(able) > 1 else 1.0,
        first=None if work.direct else 1 if _longest(work) <= cell_us else least,
    )


def _longest(work: TranscodeWork) -> int:
    """Microseconds that a picture is shown at most."""
    return work.media.video.longest_us if work.media.video else 0


def _cuts(work: TranscodeWork, keyframes: Sequence[int], sizes: _Sizes, cell_us: int) -> Iterator[int]:
    """Where windows begin, and where the last one ends."""
    # The last one must have a picture too, and may be nothing but the end of one that began before.
    cells, done = ceil_div(max(1, work.duration_us - _longest(work)), cell_us), 0
    while done < cells:
        yield work.origin_us + done * cell_us
        left = cells - done
        size = min(sizes.most, max(sizes.least, int(left * sizes.share)))
        if sizes.first is not None:
            size = min(size, max(sizes.first, done))
        if left - size < ceil_div(min(size, sizes.least), 2):
            break
        done = _near_keyframe(work, keyframes, cell_us, done, size)
    yield work.origin_us + work.duration_us


def _near_keyframe(work: TranscodeWork, keyframes: Sequence[int], cell_us: int, done: int, size: int) -> int:
    """The end of a window of so many cells, or a few less if the way from a keyframe is shorter then."""
    target = done + size

    def cost(cell: int) -> tuple[int, int]:
        return _preroll(work, keyframes, work.origin_us + cell * cell_us), target - cell

    return min(range(target - size // _LEEWAY, target + 1), key=cost)


def _preroll(work: TranscodeWork, keyframes: Sequence[int], at: int) -> int:
    """Microseconds that are decoded only to get to a time."""
    seek = _seek(keyframes, at)
    return at - (work.media.origin_us if seek is None else seek)


def _seek(keyframes: Sequence[int], at: int) -> int | None:
    """The last keyframe strictly before a time."""
    before = bisect_left(keyframes, at)
    return keyframes[before - 1] if before else None


def _piece(work: TranscodeWork, window: Window, keyframes: Sequence[int], layout: Layout | None) -> TranscodeWork:
    part = {
        "window": window,
        "seek_us": _seek(keyframes, window.start_us),
        "ranges": _ranges(work, window, keyframes, layout) if layout else (),
    }
    return TranscodeWork.model_validate(dict(work) | _ONLY_PICTURES | part)


def _whole(work: TranscodeWork) -> tuple[TranscodeWork, ...]:
    """Captions are put into an MP4 when it is put together, so they come apart from it."""
    if not (work.direct and work.video and work.subtitles):
        return (work,)
    return (*_rest(work, work.picture.gop_us), work.model_copy(update=_ONLY_PICTURES))


def _ranges(work: TranscodeWork, window: Window, keyframes: Sequence[int], layout: Layout) -> tuple[ByteRange, ...]:
    """What tells what the file holds, what the window needs, and the index if it is at the end; none if nearly all.

    To the second keyframe from the window's end on, since pictures of the window may come after the first in the file.
    """
    before, after = bisect_left(keyframes, window.start_us) - 1, bisect_left(keyframes, window.end_us) + 1
    start = layout.places[before] if before >= 0 else 0
    end = layout.places[after] if after < len(layout.places) else layout.tail
    found = [(0, layout.head)]
    for range_ in ((start, end), (layout.tail, work.source_size)):
        if range_[0] <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], range_[1]))
        else:
            found.append(range_)
    enough = sum(end - start for start, end in found) < _NEARLY_ALL * work.source_size
    return tuple(range_ for range_ in found if range_[0] < range_[1]) if enough else ()


def _rest(work: TranscodeWork, cell_us: int) -> Iterator[TranscodeWork]:
    """What is not pictures of the ladder: the sound, since players need it at once, the subtitles, the stills."""
    bare = work.model_copy(update={"video": (), "audio": (), "subtitles": (), "stills": None, "direct": False})
    sound = bare.model_copy(update={"audio": work.audio})
    windows = [] if work.direct or not work.audio or not sound.is_cuttable else _sound_windows(work, cell_us)
    yield from (sound.model_copy(update={"window": window}) for window in windows)
    left = bare.model_copy(update={"audio": () if windows else work.audio, "subtitles": work.subtitles})
    yield from (each for each in (left, bare.model_copy(update={"stills": work.stills})) if each.names)


def _sound_windows(work: TranscodeWork, cell_us: int) -> list[Window]:
    """None if it is so short, or ends so early, that it is not cut."""
    tracks = [work.media.audio[each.track] for each in work.audio]
    heard_us = min(work.whole_us, *(each.start_us + each.duration_us - work.origin_us for each in tracks))
    size = ceil_div(_FIRST_SOUND_US, cell_us) * cell_us
    cuts = [0]
    while cuts[-1] + 2 * size <= heard_us:
        cuts.append(cuts[-1] + size)
        size *= _SOUND_GROWTH
    edges = [work.origin_us + cut for cut in (*cuts, work.whole_us)]
    return [Window(start_us=start, end_us=end) for start, end in pairwise(edges)] if len(cuts) > 1 else []
