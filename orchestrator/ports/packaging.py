"""What the inside asks of whoever cuts results into segments and joins them. The work is a confined child process's."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from orchestrator.core.packaging import MAX_CUTS, Cut, Ending, Track
from tandem.protocol.ids import Frozen, Name
from tandem.protocol.media import Color, Language
from tandem.protocol.timing import SoundSpan


class Follower(Frozen):
    """What ends the last picture of a window, where the time between pictures varies: the source's next one."""

    source: Path
    origin_us: int
    """Presentation time in the source that is the job's beginning."""
    from_us: int
    """Of the job's time: the next window has the pictures from then on."""


class Pictures(Frozen):
    """A window of a rendition's pictures."""

    kind: Literal["pictures"] = "pictures"
    name: Name
    path: Path
    first: Path
    """The first window of the rendition: all are played by its beginning."""
    ending: Ending = Ending()
    follower: Follower | None = None
    """If there is one, it says more than `ending`."""
    color: Color = Color()
    """Of HDR, which not every codec says of itself."""


class Sound(Frozen):
    """A window of an audio rendition."""

    kind: Literal["sound"] = "sound"
    name: Name
    path: Path
    first: Path
    """The first window of the rendition: all are played by its beginning."""
    span: SoundSpan = SoundSpan()


class Images(Frozen):
    """JPEG pictures one after the other."""

    kind: Literal["images"] = "images"
    name: Name
    path: Path


Part = Annotated[Pictures | Sound | Images, Field(discriminator="kind")]


class Cutting(Frozen):
    """Parts to be cut, each into `folder/NAME/START.EXTENSION`, beside `folder/NAME/init.mp4`; images are numbered."""

    parts: tuple[Part, ...]
    folder: Path
    segment_us: Annotated[int, Field(gt=0)] = 1
    """Microseconds of a cell of the job's timeline: each has one segment."""
    transport: bool = False
    """MPEG-TS instead of CMAF."""


class CutPart(Frozen):
    name: Name
    track: Track | None = None
    """None: images."""
    cuts: Annotated[tuple[Cut, ...], Field(max_length=MAX_CUTS)]
    """Of images, each its number and 1."""


class CutParts(Frozen):
    parts: tuple[CutPart, ...]


class Words(Frozen):
    """Sound, or WebVTT."""

    path: Path
    language: Language | None = None


class Joining(Frozen):
    """Windows, sounds and captions to be joined to one MP4."""

    windows: Annotated[tuple[Path, ...], Field(min_length=1)]
    sounds: tuple[Words, ...] = ()
    texts: tuple[Words, ...] = ()
    ending: Ending = Ending()
    color: Color = Color()
    target: Path


class Packager(Protocol):
    """All raise ResultRejected for parts that do not fit together, Unavailable if the work itself cannot run."""

    def room(self) -> AbstractAsyncContextManager[Path]:
        """A folder to work in, which is gone afterwards."""
        ...

    async def cut(self, order: Cutting) -> tuple[CutPart, ...]: ...

    async def join(self, order: Joining) -> None: ...
