import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tandem.protocol.api import NewModel
from tandem.protocol.jobs import JobRequest
from tandem.protocol.models import ModelSettings
from tandem.protocol.wording import wording

DIGEST = "sha256:" + "0" * 64
JOB = {"kind": "transcode", "input": {"artifact": DIGEST}}


def said(kind: Any, sent: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(sent)
    return wording(caught.value, left_out=("transcode",))


@pytest.mark.parametrize(
    ("kind", "sent", "words"),
    [
        (NewModel, {}, "name: expected a value, got none; artifact: expected a value, got none"),
        (NewModel, [], "body: expected an object, got a list"),
        (
            NewModel,
            {"name": "a b", "artifact": DIGEST},
            "name: expected at most 64 letters, digits, dots.*, got 'a b'$",
        ),
        (
            NewModel,
            {"name": "a", "artifact": "x"},
            "artifact: expected an artifact's id, `sha256:` and.*, got 'x'$",
        ),
        (NewModel, {"name": "a", "artifact": DIGEST, "q": 1}, "^q: expected no field of this name, got one$"),
        (JobRequest, {**JOB, "ladder": []}, "^ladder: expected at least 1 of them, got 0$"),
        (JobRequest, {**JOB, "ladder": [{"height": 2}]}, "^ladder.0.height: expected 16 or more, got 2$"),
        (JobRequest, {**JOB, "ladder": [{"height": "480p"}]}, "^ladder.0.height: expected a whole number, got '480p'$"),
        (JobRequest, {**JOB, "ladder": "480"}, "^ladder: expected a list, got '480'$"),
        (JobRequest, {}, "^body: expected an object that says its 'kind', got none$"),
        (JobRequest, {"kind": "x"}, "^body: expected 'kind' out of 'transcode', .*, got 'x'$"),
        (ModelSettings, {"hedge": []}, "^hedge: expected true or false, got a list$"),
        (ModelSettings, {"provider": "c" * 99}, f"^provider: expected 'tensorrt', .* or 'cpu', got '{'c' * 60}'…$"),
        (ModelSettings, {"hedge": 10**5000}, "^hedge: expected true or false, got a number of many digits$"),
        (ModelSettings, {"max_batch": None}, "^max_batch: expected a whole number, got null$"),
    ],
)
def test_it_says_what_was_expected_and_what_came(kind: Any, sent: object, words: str) -> None:
    assert re.search(words, said(kind, sent))


def test_of_many_problems_the_first_are_told() -> None:
    assert said(NewModel, {"name": "a", "artifact": DIGEST, **{f"x{n}": 1 for n in range(9)}}).endswith("; and 4 more")
