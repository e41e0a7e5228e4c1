"""Byte ranges (RFC 9110, section 14)."""

import re

_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})", re.ASCII | re.IGNORECASE)


class Unsatisfiable(Exception):
    """A valid range without a byte of the content."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None: send everything.

    A header that is not one valid range of bytes is to be ignored, and several ranges may be. Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or (not match["first"] and not match["last"]):
        return None
    if not match["first"]:
        start, end = max(0, size - int(match["last"])), size
    else:
        start = int(match["first"])
        last = int(match["last"]) if match["last"] else size - 1
        if match["last"] and last < start:
            return None
        end = min(size, last + 1)
    if start >= end:
        raise Unsatisfiable
    return start, end
