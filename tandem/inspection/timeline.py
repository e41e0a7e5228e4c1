"""What the packets of a stream add up to: when it begins and ends, how many frames, and whether it may be split."""

from array import array
from dataclasses import dataclass, field
from fractions import Fraction

_JITTER = Fraction(21, 10_000)
"""Seconds that a constant rate may be off by rounding: twice a millisecond, and a little."""
MAX_FRAMES = 2**24
NO_TIMES = "packets without a presentation time"


@dataclass
class Timeline:
    """Of one video stream, in its own ticks. Packets that no decoder shows are left out."""

    tick: Fraction
    frames: int = 0
    start: int | None = None
    end: int = 0
    times: "array[int]" = field(default_factory=lambda: array("q"))
    keys: list[int] = field(default_factory=list)
    fault: str | None = None
    decoding: bool = False
    """Whether a keyframe has come that is decoded and not shown, as before the beginning of an edit list."""
    longest: Fraction = Fraction(0)
    """Seconds, the most that a frame is shown."""
    late: int = 0
    """Frames at a time that another one has, or that are decoded after one that comes later: some are never shown."""
    _latest: int | None = None
    _furthest: int | None = None
    _last_dts: int | None = None

    @property
    def span(self) -> Fraction:
        """Seconds from the first frame's start to the last one's end."""
        return (self.end - (self.start or 0)) * self.tick

    def add(self, pts: int | None, dts: int | None, duration: int, *, marked: bool, begins: bool) -> None:
        """A packet in the order of the file. `marked`: as a keyframe; `begins`: decoding can begin there."""
        # A stream cut out of a broadcast begins with pictures whose keyframe is missing: those before its first
        # keyframe, and those that follow it but are shown before it.
        if not (self.frames or marked or self.decoding):
            return
        time = dts if pts is None else pts
        if time is not None:
            if self.start is None or (self.decoding and time < self.start):
                self.start = time
            if time < self.start:
                return
            if self._latest is None or time >= self._latest:
                # Of the others the duration says how long until the next one is decoded, not shown.
                self._latest, self.end = time, time + duration
            self.times.append(time)
            if begins:
                self.keys.append(time)
        self._judge(pts, dts)
        self.frames += 1

    def _judge(self, pts: int | None, dts: int | None) -> None:
        at = pts if dts is None else dts
        if at is not None:
            self.late += self._furthest is not None and at < self._furthest
            self._furthest = at if self._furthest is None else max(at, self._furthest)
        if pts is None:
            self.fault = NO_TIMES
        elif dts is not None and self._last_dts is not None and dts < self._last_dts:
            self.fault = "times that run backwards"
        self._last_dts = dts if dts is not None else self._last_dts

    def conclude(self) -> bool:
        """To be called at the end; True if the time between frames varies."""
        ordered = array("q", sorted(self.times))
        gaps = [ordered[index + 1] - ordered[index] for index in range(len(ordered) - 1)]
        self.late += sum(gap <= 0 for gap in gaps)
        if gaps and min(gaps) <= 0:
            self.fault = self.fault or "pictures that are shown at the same time"
        if ordered:
            self.longest = max(*gaps, self.end - ordered[-1], 0, 0) * self.tick
        return bool(gaps) and (max(gaps) - min(gaps)) * self.tick > _JITTER
