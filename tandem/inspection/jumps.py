"""Clocks that jump, as in recordings of broadcasts, where one piece of a stream follows another with times of its own.

They are set right as ffmpeg does where it is not told to keep all times (`-copyts`): where the decoding time of a
packet is far from that expected of its stream, all that follows in the file is moved by the difference.
"""

from fractions import Fraction
from typing import Any

from av.packet import Packet

_FORMATS = ("mpegts", "mpeg")
"""Those that may jump; to others a gap is a gap."""
_FORWARD = Fraction(10)
_BACK = Fraction(1, 10)
"""Seconds that are no jump yet."""


class Mender:
    """Moves the times of packets, which it is to be given in the order of the file."""

    def __init__(self, format_name: str) -> None:
        self._may_jump = format_name in _FORMATS
        self._moved = Fraction(0)
        """Seconds that are added."""
        self._expected: dict[int, Fraction] = {}
        """Decoding time of the next packet in seconds, by stream."""

    @property
    def jumped(self) -> bool:
        return bool(self._moved)

    def mend(self, packet: "Packet[Any]") -> None:
        tick = packet.time_base
        if not self._may_jump or packet.dts is None or tick is None:
            return
        at = packet.dts * tick + self._moved
        expected = self._expected.get(packet.stream_index, at)
        if not -_BACK <= at - expected <= _FORWARD:
            self._moved += expected - at
            at = expected
        self._expected[packet.stream_index] = at + (packet.duration or 0) * tick
        ticks = round(self._moved / tick)
        packet.dts += ticks
        packet.pts = None if packet.pts is None else packet.pts + ticks
