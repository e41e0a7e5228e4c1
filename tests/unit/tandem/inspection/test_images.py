"""Headers of images, real ones and wrong ones."""

from itertools import pairwise
from pathlib import Path

import pytest

from tandem.inspection.images import image_format, jpegs
from tandem.protocol.errors import InvalidRequest
from tandem.protocol.ladder import ImageFormat
from tests.fixtures.media import ffmpeg


def picture(path: Path, size: str, *, count: int = 1) -> bytes:
    more = ("-f", "image2pipe", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p") if path.suffix == ".jpg" else ()
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25", "-frames:v", str(count), *more, path)
    return path.read_bytes()


def test_formats_are_told_by_their_headers(tmp_path: Path) -> None:
    assert image_format(picture(tmp_path / "a.png", "40x30")) is ImageFormat.PNG
    assert image_format(picture(tmp_path / "a.jpg", "40x30")) is ImageFormat.JPEG


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4) * 2


@pytest.mark.parametrize("data", [b"", b"<svg width='9' height='9'/>", b"#EXTM3U", BOMB, b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="expected a watermark that is a PNG or JPEG of at most 4096 pixels"):
        image_format(data)


def test_pictures_in_a_row_are_found_one_by_one(tmp_path: Path) -> None:
    data = picture(tmp_path / "row.jpg", "40x30", count=3)
    found = list(jpegs(data))
    assert [each.size for each in found] == [(40, 30)] * 3
    assert (found[0].start, found[-1].end) == (0, len(data))
    assert all(before.end == after.start for before, after in pairwise(found))


def test_a_row_that_is_cut_short_ends_before(tmp_path: Path) -> None:
    data = picture(tmp_path / "row.jpg", "40x30", count=3)
    assert len(list(jpegs(data[:-1]))) == 2
    assert len(list(jpegs(data + b"more"))) == 3
