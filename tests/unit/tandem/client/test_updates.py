"""Server-sent events of a job."""

import pytest

from tandem.client.updates import EventReader, JobUpdate
from tandem.protocol.errors import MalformedMessage
from tandem.protocol.jobs import JobState


def events(text: str) -> list[tuple[str, str]]:
    reader = EventReader()
    return [event for line in text.split("\n") if (event := reader.feed(line)) is not None]


def test_events_are_read_as_the_standard_says() -> None:
    text = ": hello\nevent: state\ndata: one\n\n\nid: 7\ndata:two\ndata: three\n\nevent: nothing\n\ndata: unfinished"
    assert events(text) == [("state", "one"), ("message", "two\nthree")]


def test_updates_follow_the_events() -> None:
    update = JobUpdate(JobState.QUEUED).after("state", '{"state": "running"}')
    update = update.after("progress", '{"percent": 40, "remaining_seconds": 3, "new": 1}')
    assert update == JobUpdate(JobState.RUNNING, 40.0, 3.0)
    assert update.after("news", "…") == update
    faster = update.after("progress", '{"percent": 50, "speed": 2.5, "renditions": [{"name": "720p", "percent": 60}]}')
    assert (faster.percent, faster.remaining_seconds, faster.speed) == (50.0, None, 2.5)
    assert [(each.name, each.percent) for each in faster.renditions] == [("720p", 60.0)]
    assert not update.final
    assert update.after("end", '{"state": "succeeded"}').final
    assert update.after("end", '{"state": "succeeded"}').percent == 100


@pytest.mark.parametrize("data", ["", "{}", '{"state": "lost"}'])
def test_data_that_make_no_sense_are_an_error(data: str) -> None:
    with pytest.raises(MalformedMessage):
        JobUpdate(JobState.QUEUED).after("state", data)
