"""How a child process that inspects a file answers: one JSON object on stdout."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem.protocol.errors import InvalidRequest


def answer(inspect: Callable[[Path], dict[str, Any]]) -> None:
    """Inspects the file that the first argument names; prints `{"result": …}`, or `{"refused": …}` if at fault."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        # Libraries print what they like, even to stdout: from here on that is stderr, and `out` the answer's alone.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        json.dump(_reply(inspect, Path(sys.argv[1])), out)


def _reply(inspect: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    try:
        return {"result": inspect(path)}
    except InvalidRequest as error:
        return {"refused": error.detail}
    except OSError:  # the file could not be read at all, which says nothing of what is in it
        raise
    except Exception as error:  # noqa: BLE001 - what else breaks the reading of a stranger's file is the file
        return {"refused": f"expected a file that can be read, got one that broke its reader: {error!r:.300}"}
