from pathlib import Path

import pytest

from orchestrator.children.texts import Cue, apart, text_packets
from orchestrator.ports.packaging import Words


@pytest.mark.parametrize(
    ("cues", "shown"),
    [
        ([], []),
        ([(0, 1, "a")], [(0, 1, "a")]),
        ([(1, 2, "a"), (4, 5, "b")], [(0, 1, ""), (1, 2, "a"), (2, 4, ""), (4, 5, "b")]),
        ([(0, 3, "a"), (1, 2, "b")], [(0, 1, "a"), (1, 2, "a\nb"), (2, 3, "a")]),
        ([(0, 2, "a"), (0, 2, "b")], [(0, 2, "a\nb")]),
        ([(1, 1, "never")], [(0, 1, "")]),
    ],
)
def test_captions_at_the_same_time_are_shown_together(cues: list[Cue], shown: list[Cue]) -> None:
    assert list(apart(cues)) == shown


def test_of_many_at_once_the_last_are_shown() -> None:
    found = list(apart([(start, 10_000, str(start)) for start in range(1000)]))
    assert found[-1] == (999, 10_000, "\n".join(str(start) for start in range(992, 1000)))


def test_markup_and_what_is_too_long_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "words.vtt"
    path.write_text(f"WEBVTT\n\n00:00.000 --> 00:02.000\n<v Ann><i>Hi</i> &amp; bye\n{'ü' * 3000}\n")
    (packet,) = text_packets(Words(path=path))
    size, words = int.from_bytes(bytes(packet)[:2]), bytes(packet)[2:].decode()
    assert words.startswith("Hi & bye\nü")
    assert size == len(words.encode()) <= 4096
