"""The filters of each track of sound as a graph of their own, apart from those of the pictures.

ffmpeg sets a graph up anew where the size or the layout of one of its inputs changes on the way; sound would then begin
again with the silence that came before its first sample.
"""

import re
from collections.abc import Iterator, Sequence

_CHAIN = re.compile(r"((?:\[[^\]]+\])*)(.*?)((?:\[[^\]]+\])*)", re.DOTALL)
_LABEL = re.compile(r"\[([^\]]+)\]")
_OPTION = "-filter_complex"
_SOUND = "0:a:"


def apart(arguments: Sequence[str]) -> Iterator[str]:
    """The same arguments with several graphs instead of one."""
    previous = ""
    for argument in arguments:
        if previous == _OPTION:
            for graph in _parts(argument):
                yield from (_OPTION, graph)
        elif argument != _OPTION:
            yield argument
        previous = argument


def _parts(graph: str) -> Iterator[str]:
    roots: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for chain in graph.split(";"):
        found = _CHAIN.fullmatch(chain)
        taken, made = (_LABEL.findall(found[group]) for group in (1, 3)) if found else ([], [])
        root = next((roots.get(label, label if label.startswith(_SOUND) else "") for label in taken), "")
        roots |= dict.fromkeys(made, root)
        parts.setdefault(root, []).append(chain)
    return (";".join(part) for part in parts.values())
