from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from tandem.cli import tables
from tandem.protocol.api import Explanation, JobView, NodeObstacles, WaitingTask
from tandem.protocol.jobs import JobState
from tests.fixtures.protocol import JOB, SHA


def shown(container: str) -> str:
    """Of a transcode that is done."""
    rendition = {"name": "96p", "artifact": SHA, "url": "/v1/x", "size": 9, "width": 128, "height": 96}
    done: dict[str, object] = {"percent": 100.0, "remaining_seconds": 0.0, "speed": None, "renditions": []}
    fields = {"id": JOB, "kind": "transcode", "state": "succeeded", "created_at": 0, "progress": done}
    request = {"kind": "transcode", "input": {"artifact": SHA}, "output": {"container": container}}
    parts = {"request": request, "folder": "/v1/folders/1/", "result": {"renditions": [rendition]}}
    view = JobView.model_validate(fields | parts | {"price": {"quoted": 7, "charged": 7}})
    text = StringIO()
    tables.job(Console(file=text, width=200), view, lambda path: f"http://here{path}")
    return text.getvalue()


@pytest.mark.parametrize(
    ("container", "files"),
    [
        ("mp4", []),
        ("hls", ["master.m3u8"]),
        ("dash", ["manifest.mpd"]),
        ("cmaf", ["master.m3u8", "manifest.mpd"]),
    ],
)
def test_of_a_stream_it_is_said_what_players_open(container: str, files: list[str]) -> None:
    told = [line for line in shown(container).splitlines() if line.startswith("to be played")]
    assert told == [f"to be played: http://here/v1/folders/1/{file}" for file in files]


@pytest.mark.parametrize(
    ("nodes", "not_before", "told"),
    [
        ((), None, "it waits for a node: none is connected"),
        (("0xa1",), None, "a node is about to take it"),
        (("0xa1",), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "tried again from 03:04:05 (UTC) on"),
    ],
)
def test_why_nothing_stands_in_the_way_and_it_waits_all_the_same(
    nodes: tuple[str, ...], not_before: datetime | None, told: str
) -> None:
    free = tuple(NodeObstacles(node=node, obstacles=()) for node in nodes)
    waiting = WaitingTask(task=f"{JOB}.0", not_before=not_before, nodes=free)
    text = StringIO()
    tables.explanation(Console(file=text, width=200), Explanation(state=JobState.QUEUED, waiting=(waiting,)))
    assert told in text.getvalue()
