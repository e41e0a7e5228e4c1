"""The few boxes of ISO base media files (ISO/IEC 14496-12) that are written and read here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_HEADER = 8
_VISUAL_ENTRY, _AUDIO_ENTRY = 78, 28
_DEFAULT_BASE_IS_MOOF, _DEFAULT_DURATION, _DEFAULT_FLAGS = 0x020000, 0x08, 0x20
_DATA_OFFSET, _FIRST_FLAGS, _DURATIONS, _SIZES, _OFFSETS = 0x001, 0x004, 0x100, 0x200, 0x800
_SYNC, _NOT_SYNC = 0x02000000, 0x01010000


@dataclass(frozen=True, slots=True)
class Sample:
    """A packet as a track holds it. `time`: when it is shown, in ticks of its track."""

    time: int
    data: bytes
    key: bool = True


def box(kind: bytes, *parts: bytes) -> bytes:
    return b"".join((_u32(_HEADER + sum(map(len, parts))), kind, *parts))


def children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box; stops at what is none."""
    offset = 0
    while offset + _HEADER <= len(data):
        size = int.from_bytes(data[offset : offset + 4])
        if size < _HEADER:
            return
        yield data[offset + 4 : offset + _HEADER], data[offset + _HEADER : offset + size]
        offset += size


def child(data: bytes, *path: bytes) -> bytes:
    """The content of the first box on a path; empty if there is none."""
    for kind in path:
        data = next((content for found, content in children(data) if found == kind), b"")
    return data


def sample_entry(init: bytes) -> tuple[bytes, bytes]:
    """The kind of the first track's samples, and the boxes that describe them."""
    media = child(init, b"moov", b"trak", b"mdia")
    kind, entry = next(children(child(media, b"minf", b"stbl", b"stsd")[8:]), (b"", b""))
    video = child(media, b"hdlr")[8:12] == b"vide"
    return kind, entry[_VISUAL_ENTRY if video else _AUDIO_ENTRY :]


def with_edit(init: bytes, skipped: int) -> bytes:
    """The same beginning of a file, whose one track is shown from so many ticks on."""
    edit = box(b"elst", _full(1, 0), _u32(1), bytes(8), skipped.to_bytes(8), _u32(0x00010000))
    return b"".join(_rebuilt(kind, content, box(b"edts", edit)) for kind, content in children(init))


def _rebuilt(kind: bytes, content: bytes, edit: bytes) -> bytes:
    if kind == b"moov":
        return box(kind, *(_rebuilt(each, inside, edit) for each, inside in children(content)))
    if kind == b"trak":
        parts = ((box(each, inside), edit if each == b"tkhd" else b"") for each, inside in children(content))
        return box(kind, *(part for pair in parts for part in pair))
    return box(kind, content)


def segment_type() -> bytes:
    return box(b"styp", b"cmfs", bytes(4), b"cmfs", b"iso6", b"msdh")


def fragment(sequence: int, samples: Sequence[Sample], decoded: Sequence[int], delay: int = 0) -> bytes:
    """A `moof` with its `mdat`. `decoded`: when each sample is decoded, and when the last one ends, in ticks.

    All are stored as if they were shown `delay` later, which the beginning of the file takes back.
    """
    durations = [end - start for start, end in pairwise(decoded)]
    offsets = [sample.time + delay - at for sample, at in zip(samples, decoded, strict=False)]
    even = len(set(durations)) == 1
    track = _DEFAULT_BASE_IS_MOOF | _DEFAULT_FLAGS | (_DEFAULT_DURATION if even else 0)
    run = _DATA_OFFSET | _FIRST_FLAGS | _SIZES | (0 if even else _DURATIONS) | (_OFFSETS if any(offsets) else 0)
    later = _SYNC if all(sample.key for sample in samples) else _NOT_SYNC
    rows = b"".join(
        (b"" if even else _u32(duration)) + _u32(len(sample.data)) + (_s32(offset) if any(offsets) else b"")
        for sample, duration, offset in zip(samples, durations, offsets, strict=True)
    )
    tfhd = box(b"tfhd", _full(0, track), _u32(1), _u32(durations[0]) if even else b"", _u32(later))
    tfdt = box(b"tfdt", _full(1, 0), decoded[0].to_bytes(8))

    def moof(data_offset: int) -> bytes:
        trun = box(b"trun", _full(1, run), _u32(len(samples)), _u32(data_offset), _u32(_SYNC), rows)
        return box(b"moof", box(b"mfhd", _full(0, 0), _u32(sequence)), box(b"traf", tfhd, tfdt, trun))

    return moof(len(moof(0)) + _HEADER) + box(b"mdat", *(sample.data for sample in samples))


def _full(version: int, flags: int) -> bytes:
    return version.to_bytes(1) + flags.to_bytes(3)


def _u32(value: int) -> bytes:
    return value.to_bytes(4)


def _s32(value: int) -> bytes:
    return value.to_bytes(4, signed=True)
