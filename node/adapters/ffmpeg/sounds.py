"""Sound: each audio rendition from one track, at the job's time, silent until the source begins."""

import re
from dataclasses import dataclass
from typing import Any

from node.adapters.ffmpeg.pictures import SLACK_US, beginning_us, seconds
from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import AudioRendition
from tandem.protocol.placement import AUDIO_ENCODERS
from tandem.protocol.sounding import sound_span
from tandem.protocol.timing import SoundSpan

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_HIGHEST_PEAK = -1.0
"""Decibels below full scale, true peak (EBU R 128)."""
_SILENCE = -69.0
"""LUFS below which there is nothing to measure."""
_SUMMARY = re.compile(r"Summary:.*?\bI:\s+(-?[0-9.]+|-inf) LUFS.*?\bPeak:\s+(-?[0-9.]+|-inf) dBFS", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Level:
    """Integrated loudness in LUFS and true peak in dBFS, measured."""

    loudness: float
    peak: float


def measurement(track: Any, work: TranscodeWork, asked: AudioRendition) -> Any:
    """The first pass: the same sound as it will be encoded, looked at."""
    return _prepared(track, work, asked).filter("ebur128", peak="true", framelog="verbose")


def parse_level(report: str) -> Level | None:
    """What ffmpeg printed after a measurement; the last, since it may set the graph up more than once."""
    found = _SUMMARY.findall(report)
    return Level(float(found[-1][0]), float(found[-1][1])) if found else None


def encoded(track: Any, work: TranscodeWork, asked: AudioRendition, level: Level | None) -> Any:
    """The filtered sound of a rendition that is not copied; `level` is the first pass's, if there was one."""
    stream = _prepared(track, work, asked)
    if asked.loudness is None or level is None or level.loudness <= _SILENCE:
        return stream
    gain = asked.loudness - level.loudness
    louder = stream.filter("volume", f"{gain:.2f}dB", precision="float")
    if level.peak + gain <= _HIGHEST_PEAK:
        return louder
    limit = 10 ** (_HIGHEST_PEAK / 20)
    return louder.filter("alimiter", limit=f"{limit:.4f}", level="false", latency="true")


def _prepared(track: Any, work: TranscodeWork, asked: AudioRendition) -> Any:
    """Cut to the job's time; gaps become silence, and so does what the source lacks at the beginning."""
    shifted = track.filter("asetpts", f"PTS-({seconds(beginning_us(work))})/TB")
    cut = shifted.filter("atrim", start=0, end=seconds(_end(work, asked)))
    # Sound that begins before is cut at 0; to say so again would be wrong where its layout changes on the way.
    late = work.media.audio[asked.track].start_us > work.origin_us
    first = {"first_pts": 0} if late else {}
    filled = cut.filter("aresample", asked.sample_rate, **{"async": 1, "min_hard_comp": 0.1}, **first)
    ready = filled.filter("aformat", channel_layouts=_LAYOUTS.get(asked.channels, "stereo"))
    return ready if work.window is None else _windowed(ready, sound_span(work, asked))


def _windowed(stream: Any, span: SoundSpan) -> Any:
    """Counted in samples of what one run gives, so that windows meet to the sample; its times begin at 0."""
    bounds = {"start_sample": span.first} | ({} if span.last is None else {"end_sample": span.last})
    return stream.filter("atrim", **bounds).filter("asetpts", "PTS-STARTPTS")


def _end(work: TranscodeWork, asked: AudioRendition) -> int:
    """Sound may outlast the pictures, unless a clip is cut."""
    if work.clip is not None:
        return work.clip.duration_us
    source = work.media.audio[asked.track]
    return max(work.whole_us, source.start_us + source.duration_us - work.origin_us) + SLACK_US


def options(asked: AudioRendition) -> dict[str, Any]:
    if asked.bitrate is None:
        return {"c:a": "copy"}
    return {"c:a": AUDIO_ENCODERS[asked.codec], "b:a": asked.bitrate}
