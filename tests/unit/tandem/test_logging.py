import io
import json
import logging
from collections.abc import Iterator

import pytest

from tandem import logging as log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_line_of_json() -> None:
    stream = io.StringIO()
    log.set_up(stream=stream)
    log.event(logging.getLogger("node"), "attempt", price=10**30, code=None, node=ValueError("odd"))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["price"], line["node"], line["level"]) == ("attempt", 10**30, "odd", "info")
    assert "code" not in line


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    log.set_up(stream=stream)
    log.event(logging.getLogger("node"), "attempt", price=5)
    assert "attempt price=5" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_an_exception_is_shown(stream: io.StringIO) -> None:
    log.set_up(stream=stream)
    try:
        int("broken")
    except ValueError:
        logging.getLogger("node").exception("failed")
    assert "ValueError: invalid literal" in stream.getvalue()


def test_lower_levels_are_left_out() -> None:
    stream = io.StringIO()
    log.set_up("WARNING", stream)
    log.event(logging.getLogger("node"), "attempt")
    assert not stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_what_gives_access_in_a_url_is_left_out(stream: io.StringIO) -> None:
    log.set_up(stream=stream)
    logger = logging.getLogger("node")
    log.event(
        logger, "fetch", url="https://tandem.example/v1/artifacts/1?sig=secret&expires=5", rpc="wss://me:secret@rpc/a"
    )
    logger.error("failed", exc_info=ValueError("HTTP 403 from 'http://127.0.0.1:80/a?sig=secret', expected 200"))
    shown = stream.getvalue()
    assert "secret" not in shown
    for kept in ("https://tandem.example/v1/artifacts/1", "wss://rpc/a", "http://127.0.0.1:80/a', expected 200"):
        assert kept in shown
