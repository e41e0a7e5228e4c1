"""What a transcode's results are put together to: tracks cut into segments, and files by their path in a folder."""

from typing import Annotated, Literal

from pydantic import Field

from tandem.protocol.ids import ArtifactId, Frozen, Name

MAX_CUTS = 2**16
"""Of one part of a task's output."""


class Cut(Frozen):
    """A segment's place on its track, in ticks."""

    start: Annotated[int, Field(ge=0)]
    duration: Annotated[int, Field(gt=0)]


class Ending(Frozen):
    """When a window's last picture is over; with neither, where one more would follow at the mean distance of some."""

    at: int | None = None
    """In ticks; of no use if that is not after the picture's beginning."""
    spacing: int | None = None
    """Ticks between pictures, where it is constant; of no use if it is far from what is seen."""


class Track(Frozen):
    """What players must know of a track before they open it."""

    codec: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9.]*$")]
    """As RFC 6381 has it."""
    timescale: Annotated[int, Field(gt=0, lt=2**31)]
    """Ticks a second."""
    width: Annotated[int, Field(ge=0, lt=2**15)] = 0
    height: Annotated[int, Field(ge=0, lt=2**15)] = 0
    range: Literal["SDR", "PQ", "HLG"] = "SDR"
    """Of brightness, as HLS calls it."""
    channels: Annotated[int, Field(ge=0, le=64)] = 0
    sample_rate: Annotated[int, Field(ge=0, lt=2**20)] = 0
    captions: bool = False
    """Whether CEA-608 or CEA-708 captions are among the pictures."""


class Segment(Cut):
    size: Annotated[int, Field(gt=0)]
    """Bytes."""


class Package(Frozen):
    """A part of one task's output, cut. Its files are in the job's folder, named by the part and by their start."""

    task: Annotated[str, Field(max_length=64)]
    name: Name
    track: Track | None = None
    """None: images."""
    segments: tuple[Segment, ...]


class JobFile(Frozen):
    """A file of the job's folder."""

    path: Annotated[
        str, Field(max_length=255, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    ]
    artifact: ArtifactId
    media_type: Annotated[str, Field(max_length=127)]
    size: Annotated[int, Field(ge=1)]
    """Bytes."""
