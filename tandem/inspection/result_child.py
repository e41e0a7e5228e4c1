"""Main of the child process that looks into what a node has made: media files, two at a time.

Its last argument says what their pictures are compared with, and is empty if with nothing.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tandem.inspection.answer import answer
from tandem.inspection.compared import Comparison
from tandem.inspection.media_child import probe
from tandem.inspection.sample import Sample
from tandem.protocol.errors import UnreadableMedia

_AT_ONCE = 2

Made = TypeVar("Made")


def look(paths: list[Path], asked: Comparison | None) -> dict[str, Any]:
    """The fields of a ResultsReport. Decoding goes on side by side, since it leaves the interpreter to others."""
    samples = [None if asked is None else Sample(asked.at_us + asked.result_us) for _ in paths]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        compare = threads.submit(_comparer, asked)
        files = list(threads.map(_look, paths, samples))
    for file, sample in zip(files, samples, strict=True):
        if sample is not None and "source" in file:
            file["likeness"] = compare.result()(sample, file["source"]["media"]["duration_us"])
    return {"files": files}


def _comparer(asked: Comparison | None) -> Callable[[Sample, int], dict[str, Any] | None]:
    """How like a result is to the source. What breaks that says nothing of the result."""
    if asked is None:
        return lambda *_: None
    from tandem.inspection.likeness import likeness, pictures

    source = _guarded(lambda: pictures(asked)) or []

    def compare(sample: Sample, duration_us: int) -> dict[str, Any] | None:
        found = _guarded(lambda: likeness(asked, source, sample, duration_us))
        return None if found is None else found.model_dump()

    return compare


def _guarded(work: Callable[[], Made]) -> Made | None:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the source's fault or our own
        print(f"not compared: {error!r:.300}", file=sys.stderr)  # noqa: T201 - stderr is kept
        return None


def _look(path: Path, sample: Sample | None) -> dict[str, Any]:
    try:
        return {"source": probe(path, thorough=True, sample=sample)}
    except UnreadableMedia as error:
        return {"refused": error.detail}


if __name__ == "__main__":
    *given, order = sys.argv[1:]
    comparison = Comparison.model_validate_json(order) if order else None
    answer(lambda _: look([Path(each) for each in given], comparison))
