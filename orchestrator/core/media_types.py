"""Media types that strangers name."""

import re

UNKNOWN_TYPE = "application/octet-stream"

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")


def plain_media_type(kind: str) -> str:
    """Type and subtype in small letters, fit to stand in a header; what is not so is of a type unknown."""
    kind = kind.lower()
    return kind if _MEDIA_TYPE.fullmatch(kind) else UNKNOWN_TYPE
