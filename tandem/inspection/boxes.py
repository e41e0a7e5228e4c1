"""The boxes of an ISO base media file (MP4, MOV), as far as they say how it is laid out (ISO/IEC 14496-12, 4.2)."""

from pathlib import Path

_HEADER = 8
_LARGE_HEADER = 16
_MOST_BOXES = 1000


def is_fragmented(path: Path) -> bool:
    """Whether packets are described here and there in the file, and not in one index; also if that cannot be told."""
    with path.open("rb") as file:
        for _ in range(_MOST_BOXES):
            header = file.read(_LARGE_HEADER)
            if len(header) < _HEADER:
                return False
            size, kind = int.from_bytes(header[:4]), header[4:_HEADER]
            if kind == b"moof":
                return True
            if size == 1:
                size = int.from_bytes(header[_HEADER:])
            if size < _HEADER:
                return size != 0  # 0: it lasts to the end of the file
            file.seek(size - len(header), 1)
    return True
