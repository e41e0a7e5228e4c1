from dataclasses import replace

import pytest

from orchestrator.core.records import JobRecord, JobSnapshot, TaskRecord
from orchestrator.core.retrying import missing_works
from tandem.protocol.errors import Conflict
from tandem.protocol.ids import task_id
from tandem.protocol.jobs import ArtifactInput, InferenceWork, JobState, TaskState, TranscodeRequest, TranscodeWork
from tandem.protocol.ladder import Poster, RenditionRequest, Stills, Window
from tests.fixtures.protocol import JOB, SHA, inference_work, media, transcode_work

WHOLE = transcode_work(media(), RenditionRequest(height=480), RenditionRequest(height=240, audio=None))
FIRST, SECOND = (
    WHOLE.model_copy(update={"window": Window(start_us=start, end_us=start + 10**6), "audio": (), "direct": False})
    for start in (0, 10**6)
)
SOUND = WHOLE.model_copy(
    update={"video": (), "direct": False, "stills": Stills(poster=Poster(at_us=0, width=320, height=180))}
)
REQUEST = TranscodeRequest(kind="transcode", input=ArtifactInput(artifact=SHA))


def job(*tasks: tuple[TranscodeWork | InferenceWork, TaskState], state: JobState = JobState.FAILED) -> JobSnapshot:
    record = JobRecord(JOB, "local", REQUEST, state, price=100, created_at=0)
    rows = tuple(TaskRecord(task_id(JOB, i), work, state, 10) for i, (work, state) in enumerate(tasks))
    return JobSnapshot(record, rows, ())


def missing(*tasks: tuple[TranscodeWork | InferenceWork, TaskState]) -> list[tuple[int | None, tuple[str, ...]]]:
    works = missing_works(job(*tasks))
    return [(work.window.start_us if work.window else None, work.names) for work in works]


def test_what_failed_is_tried_rendition_by_rendition_and_the_rest_as_it_was() -> None:
    found = missing((FIRST, TaskState.DONE), (SECOND, TaskState.FAILED), (SOUND, TaskState.CANCELLED))
    assert found == [(10**6, ("480p",)), (10**6, ("240p",)), (None, ("audio0", "poster"))]


def test_a_rendition_takes_its_sound_along() -> None:
    assert [(work.names, len(work.audio)) for work in missing_works(job((WHOLE, TaskState.FAILED)))] == [
        (("480p",), 1),
        (("240p",), 0),
    ]


def test_sound_and_stills_are_tried_apart() -> None:
    assert missing((SOUND, TaskState.FAILED)) == [(None, ("audio0",)), (None, ("poster",))]


def test_of_earlier_retries_the_newest_tasks_count() -> None:
    large, small = (
        FIRST.model_copy(update={"video": tuple(each for each in FIRST.video if each.name == name)})
        for name in ("480p", "240p")
    )
    again = [(FIRST, TaskState.CANCELLED), (SECOND, TaskState.DONE), (large, TaskState.DONE)]
    assert missing(*again, (small, TaskState.FAILED)) == [(0, ("240p",))]
    assert missing(*again, (small, TaskState.CANCELLED)) == [(0, ("240p",))]
    assert missing(*again, (small, TaskState.DONE)) == []


def test_only_a_transcode_that_failed() -> None:
    with pytest.raises(Conflict, match="has failed"):
        missing_works(replace(job((WHOLE, TaskState.ACTIVE), state=JobState.RUNNING)))
    with pytest.raises(Conflict, match="submit it again"):
        missing_works(job((inference_work(), TaskState.FAILED)))
