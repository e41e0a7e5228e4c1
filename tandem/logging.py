"""Logging: one canonical line an event, as JSON unless someone watches on a terminal.

Never log a key, a signature or a signed URL. What gives access in a URL (its user and its query) is left out of every
line, exceptions of libraries included.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

_FIELDS = "tandem_fields"
_URL = re.compile(r"(\b(?:http|ws)s?://)(?:[^\s/?#@\"']+@)?([^\s?#\"'\\]*)(?:\?[^\s\"'\\]*)?")
_OURS = ("tandem", "node", "orchestrator")
_TALKATIVE = ("web3", "alembic")


def event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Logs that `name` happened. Fields that are None are left out; what JSON does not know is given as its `str`."""
    given = {key: value for key, value in fields.items() if value is not None}
    logger.log(level, name, extra={_FIELDS: given})


def set_up(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sets the process's logging up, to stderr by default. `level` is one of logging's own names."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextFormatter() if stream.isatty() else _JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)


def keep_quiet() -> None:
    """For a command: what goes wrong is in the error that it ends by, and Python would print warnings without their
    fields.
    """
    for package in _OURS:
        logging.getLogger(package).addHandler(logging.NullHandler())


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, _FIELDS, {}) | {"logger": record.name}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _without_access(json.dumps(line, default=str))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, _FIELDS, {}).items())
        text = f"{_time(record)[11:19]} {record.levelname:<7} {record.getMessage()} {fields}".rstrip()
        return _without_access(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


def _without_access(text: str) -> str:
    """The text with nothing in it that opens a door."""
    return _URL.sub(r"\1\2", text)
