"""What results are compared with, and what comes of it; `likeness` does it, whose libraries take a moment to load."""

from pathlib import Path

from pydantic import Field

from tandem.protocol.ids import Frozen
from tandem.protocol.media import Duration, Instant

BEST_DB = 100.0


class Comparison(Frozen):
    """What results of a task are compared with. Times are in microseconds."""

    source: Path
    origin_us: Instant
    """Presentation time in the source that is the job's beginning."""
    at_us: Duration
    """Of the job's time: the pictures from then on."""
    seek_us: Instant | None = None
    """Where in the source decoding may begin; None: at its beginning."""
    result_us: int = Field(ge=0, lt=2**40)
    """What in results is the job's beginning."""
    reach_us: int = Field(default=0, ge=0, lt=2**40)
    """By which a picture of a result may be off its time, where the rate is changed."""
    pixels: int = Field(ge=1, lt=2**31)
    """Of a picture of the source."""
    rotation: int = 0
    """Degrees clockwise by which pictures of the source are turned."""


class Likeness(Frozen):
    """Of one file. Levels are of 255."""

    decibels: float = Field(ge=0, le=BEST_DB, allow_inf_nan=False)
    """Peak signal to noise, mean."""
    error: float = Field(ge=0, le=255, allow_inf_nan=False)
    """Levels by which pixels differ, root mean square."""
    unlike: float = Field(ge=0, le=255, allow_inf_nan=False)
    """Levels by which means of parts differ, but for brightness and contrast."""
    spread: float = Field(ge=0, le=255, allow_inf_nan=False)
    """Levels by which the source's means of parts differ from each other."""
    brightness: float = Field(ge=-255, le=255, allow_inf_nan=False)
    """Levels by which all of it is brighter than the source."""
    elsewhere: float | None = Field(default=None, ge=0, le=255, allow_inf_nan=False)
    """The least `unlike` of the source's pictures at other times; None: there are none."""
    group_bits: int = Field(ge=0, lt=2**53)
    """A second, from a keyframe to the next: those that were compared."""
    bits: int = Field(ge=0, lt=2**53)
    """A second, of all pictures."""
