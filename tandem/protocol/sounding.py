"""Sound in windows: which samples a task encodes, and which of the packets that come of it are the window's.

A packet of sound depends on the ones before it, since packets overlap and an encoder remembers. So a task encodes a
little more than its window, from a sample on at which one run would begin a packet too, and only the packets within the
window are used. All that comes before is decoded and filtered all the same, as it is in one run: so each sample is the
same as there, and so is the place of each packet.
"""

from collections.abc import Mapping

from tandem.protocol.jobs import TranscodeWork
from tandem.protocol.ladder import AudioRendition
from tandem.protocol.media import AudioCodec
from tandem.protocol.timing import MARGIN_US, SoundSpan
from tandem.protocol.units import ceil_div

PACKET_SAMPLES: Mapping[AudioCodec, int] = {AudioCodec.AAC: 1024, AudioCodec.OPUS: 960}

_LEAD_PACKETS = 32
"""Encoded before the window and thrown away: by then an encoder has forgotten how it began."""
_TRAIL_PACKETS = 4
"""After it: an encoder looks ahead, and fills the last packets up with silence."""
_MICRO = 10**6


def sound_span(work: TranscodeWork, asked: AudioRendition) -> SoundSpan:
    """Of one audio rendition of a task."""
    if work.window is None:
        return SoundSpan()
    packet = PACKET_SAMPLES[asked.codec]
    begin, end = (_sample(edge - work.origin_us, asked) for edge in (work.window.start_us, work.window.end_us))
    return SoundSpan(
        first=0 if work.begins else max(0, begin // packet - _LEAD_PACKETS) * packet,
        last=None if work.ends else (ceil_div(end, packet) + _TRAIL_PACKETS) * packet,
        begin=None if work.begins else begin,
        end=None if work.ends else end,
    )


def _sample(at_us: int, asked: AudioRendition) -> int:
    return ceil_div((at_us - MARGIN_US) * asked.sample_rate, _MICRO)
