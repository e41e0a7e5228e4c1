"""Records as the API shows them."""

import struct
from dataclasses import replace

from orchestrator.core.packaging import JobFile
from orchestrator.core.progress import JobProgress
from orchestrator.core.records import AttemptRecord, Failure, JobRecord, JobSnapshot
from orchestrator.core.views import job_summary, job_view, mp4_view
from tandem.protocol.api import InferenceEcho, InferenceResult
from tandem.protocol.ids import AttemptRef, job_id
from tandem.protocol.jobs import ArtifactInput, AttemptState, InferenceRequest, JobState, TranscodeRequest
from tandem.protocol.media import MediaInfo, VideoStream
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor, TensorJson

JOB = job_id(0, bytes(8))
RENDITION = FileResult(name="360p", artifact="sha256:" + "c" * 64, size=1000)
TRANSCODE = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact="sha256:" + "a" * 64))
INFERENCE = InferenceRequest(
    kind="inference", model="m", inputs=(TensorJson(name="x", datatype=Datatype.FP32, shape=(2,), data=[]),)
)


def attempt(number: int, state: AttemptState, price: int) -> AttemptRecord:
    return AttemptRecord(
        ref=AttemptRef(task=f"{JOB}.0", number=number),
        node="0xN",
        state=state,
        price=price,
        started_at=1.0,
        lease_until=2.0,
    )


def snapshot(request: TranscodeRequest | InferenceRequest, state: JobState, *attempts: AttemptRecord) -> JobSnapshot:
    job = JobRecord(id=JOB, owner="local", request=request, state=state, price=10**20, created_at=0.5)
    return JobSnapshot(job, (), attempts)


def test_only_accepted_attempts_are_charged() -> None:
    lost, accepted = attempt(1, AttemptState.EXPIRED, 50), attempt(2, AttemptState.ACCEPTED, 60)
    view = job_summary(snapshot(TRANSCODE, JobState.SUCCEEDED, lost, accepted))
    assert (view.price.quoted, view.price.charged) == (10**20, 60)
    assert view.model_dump(mode="json")["price"] == {"quoted": "100000000000000000000", "charged": "60"}
    assert view.model_dump(mode="json")["created_at"] == "1970-01-01T00:00:00.500000Z"


def test_renditions_carry_what_verification_measured() -> None:
    file = JobFile(path="360p.mp4", artifact=RENDITION.artifact, media_type="video/mp4", size=RENDITION.size)
    video = VideoStream(codec="h264", width=640, height=360, frame_rate=(25, 1), frames=50)
    media = MediaInfo(format="mp4", duration_us=2_000_000, video=video)
    rendition = mp4_view("360p", file, media)
    assert (rendition.width, rendition.height, rendition.frames) == (640, 360, 50)
    assert (rendition.bitrate, rendition.duration_seconds) == (4000, 2.0)
    assert rendition.url == f"/v1/artifacts/{RENDITION.artifact}"


def test_a_job_that_is_not_over_has_no_result_and_its_progress() -> None:
    done = replace(attempt(1, AttemptState.VERIFYING, 1), output=TranscodeOutput(files=(RENDITION,)))
    view = job_view(snapshot(TRANSCODE, JobState.VERIFYING, done), (), JobProgress(125, 3.0))
    assert view.result is None
    assert (view.progress.percent, view.progress.remaining_seconds) == (12.5, 3.0)


def test_numbers_that_json_lacks_are_spelled_out() -> None:
    data = struct.pack("<3f", float("nan"), float("-inf"), 0.5)
    tensor = Tensor(name="y", datatype=Datatype.FP32, shape=(3,), data=data)
    output = InferenceOutput(outputs=(tensor.meta,), provider="CPUExecutionProvider")
    done = replace(attempt(1, AttemptState.ACCEPTED, 1), output=output, tensors=(tensor,))
    view = job_view(snapshot(INFERENCE, JobState.SUCCEEDED, done))
    assert isinstance(view.result, InferenceResult)
    assert view.result.provider == "CPUExecutionProvider"
    assert '"data":["NaN","-Infinity",0.5]' in view.model_dump_json()


def test_a_stored_inference_is_shown_without_data() -> None:
    view = job_view(snapshot(INFERENCE, JobState.QUEUED))
    assert isinstance(view.request, InferenceEcho)
    assert view.request.model_dump(mode="json")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [2]}]


def test_failures_are_problems() -> None:
    failure = Failure(code="child_crashed", detail="signal 9", retryable=True)
    crashed = replace(attempt(1, AttemptState.FAILED, 1), failure=failure)
    problem = job_view(snapshot(TRANSCODE, JobState.QUEUED, crashed)).attempts[0].error
    assert problem is not None
    assert (problem.type, problem.status, problem.title) == ("urn:tandem:error:child_crashed", 503, "Child crashed")
