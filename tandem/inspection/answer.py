"""How a child process that inspects a file answers: one JSON object on stdout."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Refused(Exception):
    """The file is at fault; the message says what was expected, what came and what to do."""


def answer(inspect: Callable[[Path], dict[str, Any]]) -> None:
    """Inspects the file named by the first argument and prints `{"result": …}` or `{"refused": …}`."""
    try:
        reply: dict[str, Any] = {"result": inspect(Path(sys.argv[1]))}
    except Refused as error:
        reply = {"refused": str(error)}
    json.dump(reply, sys.stdout)
