"""How a child process that works on a stranger's file answers: one JSON object on stdout."""

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tandem.protocol.errors import TandemError


def answer(work: Callable[[str], dict[str, Any]]) -> None:
    """Does what the first argument says; prints `{"result": …}`, or `{"refused": …}` if the file is at fault."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        # Libraries print what they like, even to stdout: from here on that is stderr, and `out` the answer's alone.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        json.dump(reply(work, sys.argv[1]), out)


def reply(work: Callable[[str], dict[str, Any]], order: str) -> dict[str, Any]:
    """The answer. Raises OSError where the machine is at fault."""
    try:
        return {"result": work(order)}
    except TandemError as error:
        return {"refused": error.detail}
    except MemoryError:
        return {"refused": "expected a file that can be read in bounded memory, got one that takes too much"}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"refused": "expected a file of which something of bounded size is made, got one that grows"}
        raise
    except Exception as error:  # noqa: BLE001 - what else breaks the reading of a stranger's file is the file
        return {"refused": f"expected a file that can be read, got one that broke its reader: {error!r:.300}"}
