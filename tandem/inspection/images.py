"""Headers of PNG and JPEG images, read as plain bytes: nothing is decoded.

Sources: PNG (ISO/IEC 15948) 11.2.2, JPEG (Rec. ITU-T T.81) B.1.1 and B.2.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from tandem.protocol.errors import InvalidRequest
from tandem.protocol.ladder import ImageFormat

MAX_IMAGE_BYTES = 16 * 2**20
MAX_IMAGE_SIDE = 4096

_PNG = b"\x89PNG\r\n\x1a\n"
_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_LENGTH = 2
_MOST_SEGMENTS = 1024
"""Of one picture, before its scan."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """One of several pictures in a row: where it lies, and its size in pixels."""

    start: int
    end: int
    size: tuple[int, int]


def image_format(data: bytes) -> ImageFormat:
    """Of a watermark; raises InvalidRequest for what is neither PNG nor JPEG, or too large to lay over a picture."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR":
        found, size = ImageFormat.PNG, (int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    else:
        first = next(jpegs(data), None)
        found, size = ImageFormat.JPEG, (0, 0) if first is None else first.size
    if not 0 < min(size) <= max(size) <= MAX_IMAGE_SIDE:
        raise InvalidRequest(
            f"expected a watermark that is a PNG or JPEG of at most {MAX_IMAGE_SIDE} pixels a side, "
            f"got {'an image of ' + str(size[0]) + 'x' + str(size[1]) if max(size) else 'something else'}"
        )
    return found


def jpegs(data: bytes | mmap) -> Iterator[Jpeg]:
    """The pictures of a file that holds nothing but complete JPEGs; stops at the first byte that is none."""
    offset = 0
    while data[offset : offset + len(_START)] == _START:
        found = _jpeg(data, offset)
        if found is None:
            return
        yield found
        offset = found.end


def _jpeg(data: bytes | mmap, start: int) -> Jpeg | None:
    size, offset = (0, 0), start + len(_START)
    for _ in range(_MOST_SEGMENTS):
        if offset + 4 > len(data) or data[offset] != 0xFF:  # noqa: PLR2004 - a marker, and the length after it
            return None
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4])
        if marker in _FRAMES:
            size = (int.from_bytes(data[offset + 7 : offset + 9]), int.from_bytes(data[offset + 5 : offset + 7]))
        offset += _LENGTH + max(_LENGTH, length)
        if marker == _SCAN:  # within a scan, an end marker cannot occur
            end = data.find(_END, offset)
            return None if end < 0 else Jpeg(start, end + len(_END), size)
    return None
