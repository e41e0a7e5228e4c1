"""Main of the child process that looks into what a node has made: media files, two at a time.

Its last argument says what their pictures are compared with, and is empty if with nothing.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.inspection.answer import answer
from tandem.inspection.compared import Comparison
from tandem.inspection.media_child import probe
from tandem.inspection.sample import Sample
from tandem.protocol.errors import UnreadableMedia

_AT_ONCE = 2


def look(paths: list[Path], asked: Comparison | None) -> dict[str, Any]:
    """The fields of a ResultsReport. Decoding goes on side by side, since it leaves the interpreter to others."""
    samples = [None if asked is None else Sample(asked.at_us + asked.result_us) for _ in paths]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        files = list(threads.map(_look, paths, samples))
    if asked is not None:
        compare(asked, [(file, sample) for file, sample in zip(files, samples, strict=True) if sample is not None])
    return {"files": files}


def compare(asked: Comparison, results: list[tuple[dict[str, Any], Sample]]) -> None:
    """Adds how like they are to the source. What breaks that says nothing of a result."""
    from tandem.inspection.likeness import likeness, pictures

    try:
        source = pictures(asked, [us - asked.result_us for _, sample in results for us, _ in sample.frames])
        for file, sample in results:
            if "source" in file:
                found = likeness(asked, source, sample, file["source"]["media"]["duration_us"])
                file["likeness"] = None if found is None else found.model_dump()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the source's fault or our own
        print(f"not compared: {error!r:.300}", file=sys.stderr)  # noqa: T201 - stderr is kept


def _look(path: Path, sample: Sample | None) -> dict[str, Any]:
    try:
        return {"source": probe(path, thorough=True, sample=sample)}
    except UnreadableMedia as error:
        return {"refused": error.detail}


if __name__ == "__main__":
    *given, order = sys.argv[1:]
    comparison = Comparison.model_validate_json(order) if order else None
    answer(lambda _: look([Path(each) for each in given], comparison))
