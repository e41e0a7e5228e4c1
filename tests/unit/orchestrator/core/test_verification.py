import pytest

from orchestrator.core.verification import check_files, check_media, check_outputs, upload_limit
from tandem.protocol.errors import ResultRejected
from tandem.protocol.jobs import FileResult
from tandem.protocol.ladder import RenditionRequest
from tandem.protocol.media import MediaInfo
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.protocol import SHA, inference_work, media, tensor, transcode_work

WORK = transcode_work(media(640, 360), RenditionRequest(height=360), RenditionRequest(height=240))
GOOD = {"360p": media(640, 360), "240p": media(426, 240)}


def results(*names: str) -> list[FileResult]:
    return [FileResult(name=name, artifact=SHA, size=1) for name in names]


def test_exactly_the_ladder_is_expected() -> None:
    check_files(WORK, results("240p", "360p"))


@pytest.mark.parametrize("names", [(), ("360p",), ("360p", "360p"), ("360p", "240p", "144p"), ("360p", "240P")])
def test_other_renditions_are_rejected(names: tuple[str, ...]) -> None:
    with pytest.raises(ResultRejected, match="expected the files"):
        check_files(WORK, results(*names))


def test_a_good_result_passes() -> None:
    check_media(WORK, GOOD)
    check_media(WORK, GOOD | {"240p": media(426, 240, frames=52, sample_aspect=(640, 639))})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (media(424, 240), "size"),
        (media(240, 426, rotation=90), "size"),
        (media(426, 240, rotation=90), "size as shown"),
        (media(426, 240, sample_aspect=(4, 3)), "size as shown"),
        (media(426, 240, codec="hevc"), "codec h264, got hevc"),
        (media(426, 240, frames=47), "frames 50, got 47"),
        (media(426, 240, frames=0), "frames 50, got 0"),
        (media(426, 240, sound=False), "audio"),
        (media(426, 240).model_copy(update={"duration_us": 1_400_000}), "duration"),
        (MediaInfo(format="mp4", duration_us=2_000_000, video=None), "a video stream"),
    ],
)
def test_renditions_that_are_not_what_was_asked(found: MediaInfo, said: str) -> None:
    with pytest.raises(ResultRejected, match=f"rendition 240p: expected {said}"):
        check_media(WORK, GOOD | {"240p": found})


def test_silence_must_be_silent() -> None:
    silent = transcode_work(media(640, 360, sound=False))
    with pytest.raises(ResultRejected, match="audio"):
        check_media(silent, GOOD)


def test_uploads_are_bounded_well_above_the_bitrate() -> None:
    bits = (WORK.video[0].bitrate or 0) + 128_000
    assert upload_limit(WORK, "360p") == 2**20 + 4 * 2 * bits // 8


def test_outputs_must_be_those_of_the_model() -> None:
    work = inference_work()
    check_outputs(work, [tensor("y", 1.0, float("nan"))])
    wrong = Tensor(name="y", datatype=Datatype.INT32, shape=(1,), data=bytes(4))
    for given in ([], [tensor("x", 1.0)], [wrong], [tensor("y", 1.0)] * 2):
        with pytest.raises(ResultRejected, match="tensor"):
            check_outputs(work, given)
