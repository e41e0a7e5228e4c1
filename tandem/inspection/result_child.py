"""Main of the child process that looks into what a node has made: media files, two at a time."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.inspection.answer import answer
from tandem.inspection.media_child import probe
from tandem.protocol.errors import UnreadableMedia

_AT_ONCE = 2


def look(paths: list[Path]) -> dict[str, Any]:
    """The fields of a ResultsReport. Decoding goes on side by side, since it leaves the interpreter to others."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return {"files": list(threads.map(_look, paths))}


def _look(path: Path) -> dict[str, Any]:
    try:
        return {"source": probe(path, thorough=True)}
    except UnreadableMedia as error:
        return {"refused": error.detail}


if __name__ == "__main__":
    answer(lambda _: look([Path(each) for each in sys.argv[1:]]))
