"""Requests become plans, or errors that say why not."""

import math

import pytest

from orchestrator.core.records import ArtifactRecord
from orchestrator.core.scheduling import NodeState
from orchestrator.core.submission import (
    MAX_TENSOR_BYTES,
    Frame,
    needs_preparation,
    once,
    plan_inference,
    plan_transcode,
    quote_of,
    submission_of,
    unprepared_submission,
)
from tandem.protocol.errors import InvalidLadder, InvalidTensor, PriceExceeded, TooLarge, UnreadableMedia
from tandem.protocol.ids import job_id
from tandem.protocol.jobs import (
    ArtifactInput,
    InferenceRequest,
    InferenceWork,
    JobState,
    OutputRequest,
    TaskState,
    TranscodeRequest,
    TranscodeWork,
    UrlInput,
)
from tandem.protocol.ladder import Container, RenditionRequest
from tandem.protocol.media import MAX_DURATION_US, MediaInfo, Source, VideoCodec, VideoStream
from tandem.protocol.models import ModelInfo
from tandem.protocol.pricing import Prices
from tandem.protocol.tensors import Datatype, TensorJson, TensorSpec
from tests.fixtures.protocol import offer

PRICES = Prices(megapixel={VideoCodec.H264: 1000}, inference_second=10**6)
SOURCE = ArtifactRecord(id="sha256:" + "a" * 64, size=1234, media_type="video/mp4", created_at=0)
VIDEO = VideoStream(codec="h264", width=1280, height=720, frame_rate=(25, 1), frames=50)
MEDIA = MediaInfo(format="mp4", duration_us=2_000_000, video=VIDEO)
FOUND = Source(media=MEDIA, keyframes=(0,))
MODEL = ModelInfo(
    name="m",
    version="1",
    artifact="sha256:" + "b" * 64,
    size=99,
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 1)),),
    cost_us=7,
    memory=1,
)


def transcode(*heights: int) -> TranscodeRequest:
    ladder = tuple(RenditionRequest(height=height) for height in heights) or None
    return TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SOURCE.id), ladder=ladder)


def found(**change: object) -> Source:
    return FOUND.model_copy(update={"media": MEDIA.model_copy(update=change)})


def inference(shape: tuple[int, ...], data: list[object]) -> InferenceRequest:
    tensor = TensorJson(name="x", datatype=Datatype.FP32, shape=shape, data=data)
    return InferenceRequest(kind="inference", model="m", inputs=(tensor,))


def test_a_transcode_is_priced_by_the_pixels_of_its_renditions() -> None:
    plan = plan_transcode(transcode(360, 240), SOURCE, FOUND, PRICES)
    pixels = (640 * 360 + 426 * 240) * 50
    assert plan.price == -(-pixels * 1000 // 10**6)
    assert isinstance(plan.work, TranscodeWork)
    assert [each.name for each in plan.work.video] == ["360p", "240p"]
    assert quote_of(plan).ladder == plan.work.video


def test_a_ladder_that_upscales_is_refused() -> None:
    with pytest.raises(InvalidLadder, match="never upscaled"):
        plan_transcode(transcode(1080), SOURCE, FOUND, PRICES)


def test_a_codec_without_a_price_is_refused() -> None:
    with pytest.raises(InvalidLadder, match="codecs"):
        plan_transcode(transcode(), SOURCE, FOUND, Prices(megapixel={}, inference_second=1))


def test_a_source_that_runs_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="12 hours"):
        plan_transcode(transcode(), SOURCE, found(duration_us=MAX_DURATION_US + 1), PRICES)


@pytest.mark.parametrize("change", [{"duration_us": 0}, {"video": VIDEO.model_copy(update={"frames": 0})}])
def test_a_source_without_frames_is_unreadable(change: dict[str, object]) -> None:
    with pytest.raises(UnreadableMedia):
        plan_transcode(transcode(), SOURCE, found(**change), PRICES)


@pytest.mark.parametrize("container", [Container.MP4, Container.HLS])
def test_a_long_transcode_is_split_over_the_nodes_that_could_take_it(container: Container) -> None:
    minutes = Source(
        media=MEDIA.model_copy(
            update={"duration_us": 120 * 10**6, "video": VIDEO.model_copy(update={"frames": 120 * 25})}
        ),
        keyframes=tuple(range(0, 120 * 10**6, 2 * 10**6)),
    )
    request = transcode(360).model_copy(update={"output": OutputRequest(container=container)})
    dear, mute = offer(megapixel=2000), offer(draining=True)
    nodes = [NodeState(f"0x{index}", each, {}) for index, each in enumerate([offer(), offer(), dear, mute])]
    plan = plan_transcode(request, SOURCE, minutes, PRICES, nodes)
    lengths = [part.work.duration_us for part in plan.parts if isinstance(part.work, TranscodeWork)]
    assert len(lengths) > 4
    assert sum(lengths) == 120 * 10**6
    assert all(length % (4 * 10**6 if container is Container.HLS else 2 * 10**6) == 0 for length in lengths[:-1])
    whole = plan_transcode(request, SOURCE, minutes, PRICES)
    assert 0 <= plan.price - whole.price <= len(plan.parts)
    assert (quote_of(plan).tasks, quote_of(plan).whole_because) == (len(plan.parts), None)
    tasks = submission_of(plan, Frame(job_id(5.0, bytes(8)), "key_1", 5.0)).tasks
    assert sum(task.price for task in tasks) == plan.price
    alone = plan_transcode(transcode(360), SOURCE, minutes, PRICES, nodes[1:])
    assert (quote_of(alone).tasks, quote_of(alone).whole_because) == (1, "one node")


def test_an_inference_is_priced_by_its_batch() -> None:
    plan = plan_inference(inference((3, 2), [1, 2, 3, 4, 5, 6]), MODEL, PRICES)
    assert isinstance(plan.work, InferenceWork)
    assert plan.work.cost_us == 21
    assert plan.price == 21
    assert quote_of(plan).cost_us == 21


def test_the_stored_request_has_no_data() -> None:
    plan = plan_inference(inference((1, 2), [1, 2]), MODEL, PRICES)
    assert isinstance(plan.request, InferenceRequest)
    assert plan.request.inputs[0].data == []
    assert len(plan.inputs[0].data) == 8


def test_a_repeat_is_told_by_the_data() -> None:
    given: list[list[object]] = [[1, 2], [1, 2], [1, 3], [1, math.nan], [1, math.inf]]
    first, again, *others = [once("again", inference((1, 2), data)) for data in given]
    assert first == again
    assert len({each.request_digest for each in (first, *others)}) == 4


@pytest.mark.parametrize(
    ("shape", "data"), [((1, 3), [1, 2, 3]), ((1, 2), [1]), ((1, 2), [1, "two"]), ((2,), [1, 2]), ((1, 2), [True, 1])]
)
def test_a_tensor_that_the_model_does_not_take_is_refused(shape: tuple[int, ...], data: list[object]) -> None:
    with pytest.raises(InvalidTensor, match="'x'"):
        plan_inference(inference(shape, data), MODEL, PRICES)


def test_outputs_that_no_message_could_carry_are_refused() -> None:
    wide = TensorSpec(name="y", datatype=Datatype.UINT8, shape=(-1, MAX_TENSOR_BYTES + 1))
    with pytest.raises(TooLarge, match="outputs"):
        plan_inference(inference((1, 2), [1, 2]), MODEL.model_copy(update={"outputs": (wide,)}), PRICES)


def test_a_job_that_costs_more_than_it_may_is_refused() -> None:
    request = transcode(360).model_copy(update={"max_price": 10})
    with pytest.raises(PriceExceeded, match="at most 10 wei"):
        plan_transcode(request, SOURCE, Source(media=MEDIA), PRICES)
    dear = inference((3, 2), [1, 2, 3, 4, 5, 6])
    with pytest.raises(PriceExceeded, match="got one of 21 wei"):
        plan_inference(dear.model_copy(update={"max_price": 20}), MODEL, PRICES)
    assert plan_inference(dear.model_copy(update={"max_price": 21}), MODEL, PRICES).price == 21


def test_a_job_with_a_url_has_neither_tasks_nor_price_at_first() -> None:
    request = TranscodeRequest(kind="transcode", input=UrlInput(url="https://files.example/clip.mp4"))
    assert needs_preparation(request)
    assert not needs_preparation(transcode())
    submission = unprepared_submission(
        request, Frame(job_id(5.0, bytes(8)), "key_1", 5.0, webhook="https://hook.example/")
    )
    assert (submission.job.state, submission.job.price, submission.tasks) == (JobState.PREPARING, None, ())
    assert submission.job.webhook == "https://hook.example/"


def test_a_submission_is_one_waiting_task() -> None:
    plan = plan_transcode(transcode(360), SOURCE, FOUND, PRICES)
    job = job_id(5.0, bytes(8))
    submission = submission_of(plan, Frame(job, "key_1", 5.0))
    assert submission.job.state is JobState.QUEUED
    assert submission.job.price == submission.tasks[0].price == plan.price
    assert [(task.id, task.state) for task in submission.tasks] == [(f"{job}.0", TaskState.WAITING)]
    assert submission.artifacts == (SOURCE.id,)
