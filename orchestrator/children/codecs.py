"""What a track is to be called in a playlist (RFC 6381), read from its own sample entry."""

from orchestrator.children.boxes import child, sample_entry

_SPACES = ("", "A", "B", "C")
_TIERS = "LH"
_ESCAPE, _ESCAPED_FROM = 31, 32


def codec_name(init: bytes, extradata: bytes) -> str:  # noqa: PLR0911 - one arm a codec
    """From the beginning of a fragmented file; `extradata` as a demultiplexer gives it, for AAC. Empty: unknown."""
    kind, entry = sample_entry(init)
    match kind:
        case b"avc1":
            return f"avc1.{child(entry, b'avcC')[1:4].hex()}"
        case b"hvc1" | b"hev1":
            return f"{kind.decode()}.{_hevc(child(entry, b'hvcC'))}"
        case b"vp09":
            profile, level, depth = child(entry, b"vpcC")[4:7]
            return f"vp09.{profile:02d}.{level:02d}.{depth >> 4:02d}"
        case b"av01":
            return f"av01.{_av1(child(entry, b'av1C'))}"
        case b"mp4a":
            return f"mp4a.40.{_aac(extradata)}"
        case b"Opus":
            return "opus"
        case _:
            return ""


def _hevc(config: bytes) -> str:
    """ISO/IEC 14496-15, annex E.3."""
    space, tier, profile = _SPACES[config[1] >> 6], _TIERS[config[1] >> 5 & 1], config[1] & 31
    compatible = int(f"{int.from_bytes(config[2:6]):032b}"[::-1], 2)
    constraints = [f"{each:X}" for each in config[6:12].rstrip(b"\0")]
    return ".".join((f"{space}{profile}", f"{compatible:X}", f"{tier}{config[12]}", *constraints))


def _av1(config: bytes) -> str:
    """AV1 in ISO base media files, section 5."""
    first, second = config[1:3]
    tier = "MH"[second >> 7]
    depth = (12 if second >> 5 & 1 else 10) if second >> 6 & 1 else 8
    return f"{first >> 5}.{first & 31:02d}{tier}.{depth:02d}"


def _aac(config: bytes) -> int:
    """The audio object type (ISO/IEC 14496-3, 1.6.2.1)."""
    kind = config[0] >> 3
    return kind if kind != _ESCAPE else _ESCAPED_FROM + ((config[0] & 7) << 3 | config[1] >> 5)
