"""Where decoding can really begin.

Containers and parsers call more pictures keyframes than can be started from: an I-picture that later ones reach back
across, or the beginning of a refresh that takes many pictures. H.264 says which is which in the bitstream (Rec. ITU-T
H.264, 7.3.1 and D.2.8); for the other codecs the mark can be trusted, as long as what is shown before the keyframe is
not wanted.
"""

from collections.abc import Iterator

_IDR, _SLICE, _SEI = 5, 1, 6
_TYPE_BITS = 0x1F
_RECOVERY_POINT = 6
_SCANNED_BYTES = 16_384
_MORE = 0xFF


def h264_begins(packet: bytes, extradata: bytes) -> bool:
    """Whether a packet of H.264 that is marked as a keyframe is an IDR picture, or needs no earlier picture either."""
    for unit in _units(packet[:_SCANNED_BYTES], _length_size(extradata)):
        match unit[0] & _TYPE_BITS:
            case n if n == _IDR:
                return True
            case n if n == _SLICE:
                return False
            case n if n == _SEI and _recovers_at_once(unit[1:].replace(b"\0\0\3", b"\0\0")):
                return True
            case _:
                pass
    return False


def _length_size(extradata: bytes) -> int:
    """Bytes of a unit's length; 0 where units begin with a start code instead."""
    return (extradata[4] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 4 else 0  # noqa: PLR2004 - avcC


def _units(data: bytes, length_size: int) -> Iterator[bytes]:
    if length_size:
        offset = 0
        while offset + length_size < len(data):
            size = int.from_bytes(data[offset : offset + length_size])
            offset += length_size
            if size:
                yield data[offset : offset + size]
            offset += size
    else:
        yield from (unit for unit in data.split(b"\0\0\1")[1:] if unit)


def _recovers_at_once(sei: bytes) -> bool:
    """Whether the SEI has a recovery point with a `recovery_frame_cnt` of 0, which as ue(v) is a single set bit."""
    offset = 0
    while offset + 2 < len(sei):
        kind, offset = _varying(sei, offset)
        size, offset = _varying(sei, offset)
        if kind == _RECOVERY_POINT and offset < len(sei):
            return bool(sei[offset] & 0x80)
        offset += size
    return False


def _varying(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    while offset < len(data) and data[offset] == _MORE:
        value += _MORE
        offset += 1
    return (value + data[offset], offset + 1) if offset < len(data) else (value, offset)


def thin(times: list[int], spacing: int, most: int) -> list[int]:
    """Ascending times at least `spacing` apart, and no more than `most`."""
    kept: list[int] = []
    for time in sorted(times):
        if not kept or time - kept[-1] >= spacing:
            kept.append(time)
    return kept[:: -(-len(kept) // most)] if len(kept) > most else kept
