"""How a child process that inspects a file answers: one JSON object on stdout."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem.protocol.errors import InvalidRequest


def answer(inspect: Callable[[Path], dict[str, Any]]) -> None:
    """Inspects the file that the first argument names; prints `{"result": …}`, or `{"refused": …}` if at fault."""
    try:
        reply: dict[str, Any] = {"result": inspect(Path(sys.argv[1]))}
    except InvalidRequest as error:
        reply = {"refused": error.detail}
    json.dump(reply, sys.stdout)
