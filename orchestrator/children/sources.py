"""What the source tells of its pictures that a window does not: when the next one is shown."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from math import floor
from pathlib import Path

import av
from av.stream import Disposition

from orchestrator.ports.packaging import Follower
from tandem.inspection.accepted import DEMUXER_OPTIONS
from tandem.protocol.timing import TICKS, ticks

_EARLIER = 10 * TICKS
"""From where it is read: formats without an index come near a time only, and pictures are not stored as shown."""


def follows(asked: Follower) -> int | None:
    """When the next window's first picture is shown, in ticks of the job's time; None: that cannot be told.

    Times are rounded as those of the pictures are that a node makes.
    """
    origin, begin = ticks(asked.origin_us), ticks(asked.origin_us) + ticks(asked.from_us)
    for at in (begin - _EARLIER, None):
        with suppress(av.error.FFmpegError):  # not every format can be read from anywhere
            found = _first(_times(asked.source, at), begin)
            if found is not None:
                return found - origin
    return None


def _times(path: Path, at: int | None) -> Iterator[tuple[int, int]]:
    """Of pictures as they are stored, when each is shown and when it is decoded, in ticks; None: from the beginning."""
    with av.open(f"file:{path}", "r", options=DEMUXER_OPTIONS, metadata_errors="replace") as container:
        stream = next(each for each in container.streams.video if not each.disposition & Disposition.attached_pic)
        tick = (stream.time_base or Fraction(1)) * TICKS
        if at is not None:
            container.seek(int(at / tick), stream=stream)
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                decoded = packet.pts if packet.dts is None else packet.dts
                yield floor(packet.pts * tick + Fraction(1, 2)), floor(decoded * tick)


def _first(times: Iterable[tuple[int, int]], begin: int) -> int | None:
    """The first time that is not before `begin`; None: there is none, or it may have been passed by."""
    found: int | None = None
    passed = True
    for shown, decoded in times:
        passed = passed and shown >= begin
        if found is not None and decoded > found:  # nothing is shown before it is decoded
            break
        if shown >= begin and (found is None or shown < found):
            found = shown
    return None if passed else found
