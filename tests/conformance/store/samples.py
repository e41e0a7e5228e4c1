"""Jobs, decisions and tickets for the store's tests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from orchestrator.core.catalogue import ModelChanges, ModelQuota, add
from orchestrator.core.records import (
    AccountChanges,
    AccountRecord,
    AttemptRecord,
    Failure,
    JobChanges,
    JobRecord,
    JobSnapshot,
    Once,
    PaymentRecord,
    Submission,
    TaskRecord,
)
from orchestrator.ports.store import AccountDecision, JobDecision, Store
from tandem.protocol.ids import AttemptRef, job_id, task_id
from tandem.protocol.jobs import (
    ArtifactInput,
    AttemptState,
    InferenceRequest,
    InferenceWork,
    JobState,
    TaskState,
    TranscodeRequest,
    UrlInput,
)
from tandem.protocol.media import AudioStream, MediaInfo, VideoStream
from tandem.protocol.messages import SignedTicket
from tandem.protocol.models import ModelInfo
from tandem.protocol.outputs import FileResult, InferenceOutput, Output, TranscodeOutput
from tandem.protocol.signing import parse_address
from tandem.protocol.tensors import Datatype, Tensor, TensorJson, TensorSpec
from tandem.protocol.tickets import TicketParams
from tests.fixtures.protocol import transcode_work

QUOTA = ModelQuota(models=10, size=1000, replicas=2)
START = 1_800_000_000.0
NODE = parse_address("0x" + "a1" * 20)
OTHER = parse_address("0x" + "b2" * 20)
HUGE = 2**200 + 1
"""Wei that fit in no column of integers."""

MEDIA = MediaInfo(
    format="mp4",
    duration_us=2_000_000,
    video=VideoStream(codec="h264", width=1280, height=720, frame_rate=(24, 1), frames=48),
    audio=(AudioStream(codec="aac", channels=2, sample_rate=48_000),),
)
PIXELS = Tensor(name="pixels", datatype=Datatype.FP32, shape=(1, 2), data=bytes(range(8)))
LABELS = Tensor(name="labels", datatype=Datatype.BYTES, shape=(1,), data=b"\x02\0\0\0ok")
LOST = Failure("attempt_lost", "the node's lease ran out", retryable=True)


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def job_number(number: int) -> str:
    """Ids that sort by number."""
    return job_id(START + number, number.to_bytes(8))


def inference(
    number: int = 0, *, tasks: int = 1, owner: str = "local", key: str | None = None, webhook: str | None = None
) -> Submission:
    job = job_number(number)
    tensor = TensorJson(name="pixels", datatype=Datatype.FP32, shape=(1, 2), data=[])
    work = InferenceWork(
        model=digest(1),
        model_size=10,
        inputs=(PIXELS.meta,),
        outputs=(TensorSpec(name="labels", datatype=Datatype.BYTES, shape=(-1,)),),
        cost_us=50,
    )
    return Submission(
        job=JobRecord(
            id=job,
            owner=owner,
            request=InferenceRequest(kind="inference", model="digits", inputs=(tensor,)),
            state=JobState.QUEUED,
            price=HUGE,
            created_at=START + number,
            webhook=webhook,
        ),
        tasks=tuple(
            TaskRecord(id=task_id(job, index), work=work, state=TaskState.WAITING, price=HUGE) for index in range(tasks)
        ),
        inputs=(PIXELS, LABELS),
        once=Once(key, b"digest") if key else None,
    )


def transcode(number: int = 0) -> Submission:
    """Its source is artifact 7."""
    job = job_number(number)
    work = transcode_work(MEDIA).model_copy(update={"source": digest(7)})
    return Submission(
        job=JobRecord(
            id=job,
            owner="local",
            request=TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=digest(7))),
            state=JobState.QUEUED,
            price=5,
            created_at=START + number,
        ),
        tasks=(TaskRecord(id=task_id(job, 0), work=work, state=TaskState.WAITING, price=5),),
        artifacts=(digest(7),),
    )


def unprepared(number: int = 0, url: str = "https://files.example/clip.mp4") -> Submission:
    job = replace(
        transcode(number).job,
        request=TranscodeRequest(kind="transcode", input=UrlInput(url=url)),
        state=JobState.PREPARING,
        price=None,
    )
    return Submission(job=job, tasks=())


def renditions(*numbers: int) -> TranscodeOutput:
    return TranscodeOutput(
        files=tuple(FileResult(name=f"r{number}", artifact=digest(number), size=1) for number in numbers)
    )


RESULT = InferenceOutput(outputs=(LABELS.meta,), provider="CPUExecutionProvider")


def ref_of(submission: Submission, number: int = 1, task: int = 0) -> AttemptRef:
    return AttemptRef(task=submission.tasks[task].id, number=number)


def begin(ref: AttemptRef, node: str = NODE, price: int = HUGE, lease: float = 30, lane: int = 0) -> JobDecision:
    """A new attempt."""

    def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
        attempt = AttemptRecord(
            ref, node, AttemptState.RUNNING, price, started_at=now, lease_until=now + lease, lane=lane
        )
        return JobChanges(
            job=replace(snapshot.job, state=JobState.RUNNING),
            tasks=(replace(_task(snapshot, ref), state=TaskState.ACTIVE),),
            attempts=(attempt,),
        )

    return decide


def deliver(ref: AttemptRef, output: Output = RESULT, tensors: tuple[Tensor, ...] = ()) -> JobDecision:
    """The result of an attempt, to be verified."""

    def decide(snapshot: JobSnapshot, _now: float) -> JobChanges:
        attempt = replace(_attempt(snapshot, ref), state=AttemptState.VERIFYING, output=output, tensors=tensors)
        return JobChanges(job=replace(snapshot.job, state=JobState.VERIFYING), attempts=(attempt,))

    return decide


def accept(ref: AttemptRef, beaten: AttemptRef | None = None, part: int = 0) -> JobDecision:
    """`beaten` ran beside it, and earns `part`."""

    def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
        won = _attempt(snapshot, ref)
        ends = [replace(won, state=AttemptState.ACCEPTED, finished_at=now, earned=won.price)]
        if beaten is not None:
            lost = _attempt(snapshot, beaten)
            ends.append(replace(lost, state=AttemptState.CANCELLED, finished_at=now, earned=part))
        return JobChanges(
            job=replace(snapshot.job, state=JobState.SUCCEEDED, finished_at=now),
            tasks=(replace(_task(snapshot, ref), state=TaskState.DONE),),
            attempts=tuple(ends),
            earned=tuple(ends),
        )

    return decide


def fail(ref: AttemptRef, state: AttemptState = AttemptState.EXPIRED, backoff: float = 0) -> JobDecision:
    """An attempt that ends badly; its task waits again."""

    def decide(snapshot: JobSnapshot, now: float) -> JobChanges:
        attempt = replace(_attempt(snapshot, ref), state=state, failure=LOST, finished_at=now)
        return JobChanges(
            job=replace(snapshot.job, state=JobState.QUEUED),
            tasks=(replace(_task(snapshot, ref), state=TaskState.WAITING, not_before=now + backoff),),
            attempts=(attempt,),
        )

    return decide


def cancel(snapshot: JobSnapshot, now: float) -> JobChanges:
    return JobChanges(
        job=replace(snapshot.job, state=JobState.CANCELLED, finished_at=now),
        tasks=tuple(replace(task, state=TaskState.CANCELLED) for task in snapshot.tasks),
    )


def nothing(_snapshot: JobSnapshot, _now: float) -> JobChanges:
    return JobChanges()


async def decided(store: Store, submission: Submission, *decisions: JobDecision) -> None:
    """One decision after the other, on a job that is there."""
    for decision in decisions:
        await store.decide([submission.job.id], decision)


async def earn(store: Store, amount: int, number: int = 0, node: str = NODE) -> None:
    """One accepted attempt, at so many wei."""
    job = inference(number)
    await store.submit(job)
    ref = ref_of(job)
    await decided(store, job, begin(ref, node, price=amount), deliver(ref, tensors=(LABELS,)), accept(ref))


async def at_once(count: int, act: Callable[[int], Awaitable[object]]) -> list[object]:
    """What each of so many concurrent calls returned or raised."""

    async def outcome(number: int) -> object:
        try:
            return await act(number)
        except Exception as error:  # noqa: BLE001 - the tests look at what was raised
            return error

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(outcome(number)) for number in range(count)]
    return [call.result() for call in calls]


PARAMS = TicketParams(
    sender=OTHER,
    recipient=NODE,
    face_value=10**18,
    win_prob=2**255,
    expiry=1_900_000_000,
    commitment=b"\1" * 32,
)


def issue(count: int) -> AccountDecision:
    """Signs so many tickets, in a payment."""

    def decide(account: AccountRecord, _now: float) -> AccountChanges:
        nonces = range(account.next_nonce, account.next_nonce + count)
        tickets = tuple(SignedTicket(sender_nonce=nonce, signature=b"\2" * 64) for nonce in nonces)
        payment = PaymentRecord(0, account.node, PARAMS, nonces, tickets)
        return AccountChanges(params=PARAMS, payment=payment)

    return decide


def _task(snapshot: JobSnapshot, ref: AttemptRef) -> TaskRecord:
    task = snapshot.task(ref.task)
    assert task is not None
    return task


def _attempt(snapshot: JobSnapshot, ref: AttemptRef) -> AttemptRecord:
    attempt = snapshot.attempt(ref)
    assert attempt is not None
    return attempt


async def put_model(store: Store, model: ModelInfo, *, check: bool = True) -> ModelChanges:
    """Registers it, as its owner would, or whatever the rules say."""

    def decide(known: Sequence[ModelInfo], _now: float) -> ModelChanges:
        return add(known, model, QUOTA) if check else ModelChanges(put=(model,))

    return await store.decide_models(model.owner, model.name, decide)
