"""WebVTT as ffmpeg writes it, put on the job's time.

ffmpeg moves all cues where one of them would begin before 0, and cuts none at the end of a clip. So it is told to put
them far behind 0, from where they are taken back here.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from node.adapters.ffmpeg.pictures import beginning_us
from tandem.protocol.jobs import TranscodeWork

LEAD_US = 360_000 * 10**6
"""How long after 0 the job's beginning is in what ffmpeg writes."""

_TIME = r"(?:(\d+):)?(\d\d):(\d\d)\.(\d{3})"
_TIMES = re.compile(rf"^{_TIME} --> {_TIME}", re.MULTILINE)
_MILLI = 1000


def offset_us(work: TranscodeWork) -> int:
    """By which ffmpeg is to move them, in microseconds."""
    return LEAD_US - beginning_us(work)


def place(path: Path, work: TranscodeWork) -> None:
    """Writes the file anew: what is shown within the job, and when."""
    end = work.clip.duration_us // _MILLI if work.clip is not None else None
    text = path.read_text(encoding="utf-8", errors="replace")
    path.write_text("\n\n".join(_placed(text.split("\n\n"), end)).rstrip("\n") + "\n", encoding="utf-8")


def _placed(blocks: list[str], end: int | None) -> Iterator[str]:
    """What has no times goes on from the cue before it. `end`: of the job, in milliseconds."""
    kept = True
    for block in blocks:
        found = _TIMES.search(block)
        if found is None:
            if kept:
                yield block
            continue
        first, last = (_milliseconds(*found.groups()[part : part + 4]) for part in (0, 4))
        first, last = max(0, first), last if end is None else min(end, last)
        kept = first < last
        if kept:
            yield f"{block[: found.start()]}{_clock(first)} --> {_clock(last)}{block[found.end() :]}"


def _milliseconds(hours: str | None, minutes: str, seconds: str, milliseconds: str) -> int:
    """Of the job's time."""
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return whole * _MILLI + int(milliseconds) - LEAD_US // _MILLI


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, _MILLI)
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{f'{hours:02d}:' if hours else ''}{minutes:02d}:{seconds % 60:02d}.{rest:03d}"
