"""What a child may answer; see `test_media` and `test_models` for what real ones do."""

import pytest

from tandem.inspection import calls
from tandem.process import Limits
from tandem.protocol.errors import UnreadableMedia
from tandem.protocol.media import Source

MEDIA = calls._Inspection("a.module", Source, UnreadableMedia, Limits(memory_mib=1, wall_seconds=1))


@pytest.mark.parametrize(
    "stdout",
    [b"", b"\xff", b"7", b"[]", b"{}", b"[" * 100_000, b'{"result": 1}', b'{"result": {}}', b'{"refused": 1}'],
    ids=["nothing", "no text", "number", "list", "empty", "deep", "no facts", "missing facts", "no reason"],
)
def test_nonsense_counts_against_the_file(stdout: bytes) -> None:
    with pytest.raises(UnreadableMedia, match="within bounds"):
        calls._parse(MEDIA, stdout)


def test_a_refusal_says_why() -> None:
    with pytest.raises(UnreadableMedia, match="a picture"):
        calls._parse(MEDIA, b'{"refused": "a picture"}')
