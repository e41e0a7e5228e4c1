"""Pictures of a result that are kept while it is proved, to be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from av.video.frame import VideoFrame

_PICTURES = 2
"""In a row."""


@dataclass
class Sample:
    """Those from a time on."""

    at_us: int
    """In the file's own time."""
    frames: list[tuple[int, VideoFrame]] = field(default_factory=list)
    """With their times. If there is none from the time on, the one before."""
    group_bytes: int = 0
    """From a keyframe to the next: of those that the pictures are among."""
    group_us: int = 0
    bytes: int = 0
    """Of all pictures."""

    def wants(self, following_us: int | None) -> bool:
        """Whether its time is in a group, before the next one's keyframe; None: there is no other."""
        return not self.frames and (following_us is None or following_us > self.at_us)

    def begin(self, times_us: Sequence[int], following_us: int | None, size: int) -> None:
        """The group that has its time."""
        self.group_bytes = size
        self.group_us = (max(times_us) if following_us is None else following_us) - times_us[0]

    def offer(self, us: int, frame: VideoFrame) -> None:
        """The next one, as they are shown."""
        if not self.frames or self.frames[-1][0] < self.at_us:
            self.frames = [(us, frame)]
        elif len(self.frames) < _PICTURES:
            self.frames.append((us, frame))
