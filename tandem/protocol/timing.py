"""How pictures and sound are placed on a job's time. Apart from `jobs`, for children that are to start fast."""

from tandem.protocol.ids import Frozen

TICKS = 90_000
"""A second, in the files of pictures."""
PICTURE_OFFSET_TICKS = 900_000
"""Where a job begins in the files of its pictures: after 0, for what is decoded before it is shown."""
MARGIN_US = 1000
"""What comes so little before an edge counts as on it: sources round their times to milliseconds."""

_MICRO = 10**6


def ticks(us: int) -> int:
    return round(us * TICKS / _MICRO)


class SoundSpan(Frozen):
    """In samples of the rendition from the job's beginning on; None: there is no bound."""

    first: int = 0
    """Where the encoder begins, which is 0 in the times of the file."""
    last: int | None = None
    begin: int | None = None
    """The window's packets begin from here on, and before `end`."""
    end: int | None = None
