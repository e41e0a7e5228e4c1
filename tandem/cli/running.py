"""What the submitter's commands share: where the orchestrator is, how errors end, how progress shows."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

import click
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tandem.client import JobUpdate, TandemClient
from tandem.client.files import ProgressCallback
from tandem.protocol.api import JobView
from tandem.protocol.errors import InvalidRequest, TandemError
from tandem.protocol.jobs import JobState
from tandem.protocol.urls import parse_web_url
from tandem.protocol.wording import wording

P = ParamSpec("P")

DEFAULT_URL = "http://127.0.0.1:8080"
_PIPE_WIDTH = 240
"""Columns for a program that reads the tables: wide enough to leave every id in one piece."""


class WebUrl(click.ParamType[str]):
    """An http or https URL that the orchestrator is to visit."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_web_url(str(value))
        except ValueError:
            self.fail(f"expected an http or https URL without a password, got {value!r}", param, ctx)


class Refused(click.ClickException):
    """An error that asking again will not cure."""

    exit_code = 3


class TryLater(click.ClickException):
    """An error that may be gone later."""

    exit_code = 4


class JobNotDone(click.ClickException):
    """The job came to an end without a result."""

    exit_code = 1

    def __init__(self, job: JobView) -> None:
        reason = f": {job.error.code}: {job.error.detail}" if job.error else ""
        super().__init__(f"{job.id} has {job.state}{reason}")


@dataclass(frozen=True, slots=True)
class Session:
    """One command's run."""

    client: TandemClient
    as_json: bool
    """Only the answer, as JSON, on standard output; no progress."""

    def print(self, view: BaseModel, show: Callable[[Console], None]) -> None:
        """The answer, for programs or for people."""
        if self.as_json:
            click.echo(view.model_dump_json(indent=2))
        else:
            show(Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH))

    @contextmanager
    def progress(self) -> Iterator["Bars"]:
        """Bars on standard error, where that is a terminal and JSON was not asked for."""
        shown = not self.as_json and sys.stderr.isatty()
        columns = (TextColumn("{task.description:<24}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
            yield Bars(progress)


@dataclass(frozen=True, slots=True)
class Bars:
    """Progress bars, one below the other."""

    _progress: Progress

    def transfer(self, description: str) -> ProgressCallback:
        bar = self._progress.add_task(description, total=None)
        return lambda done, total: self._progress.update(bar, completed=done, total=total)

    def job(self, description: str) -> Callable[[JobUpdate], None]:
        bar = self._progress.add_task(description, total=100)
        of_renditions: dict[str, TaskID] = {}

        def update(news: JobUpdate) -> None:
            done = 100.0 if news.final else news.percent
            speed = f", {news.speed:.1f}x" if news.speed and not news.final else ""
            self._progress.update(bar, completed=done, description=f"{description} ({news.state}{speed})")
            for each in news.renditions:
                if each.name not in of_renditions:
                    of_renditions[each.name] = self._progress.add_task(f"  {each.name}", total=100)
                self._progress.update(of_renditions[each.name], completed=done if news.final else each.percent)

        return update


def submitter_command(
    command: Callable[Concatenate[Session, P], Awaitable[None]],
) -> Callable[P, None]:
    """An async command that talks to an orchestrator, with the options that all of these have."""

    def run(url: str, key: str | None, as_json: bool, *args: P.args, **kwargs: P.kwargs) -> None:
        async def connected() -> None:
            async with TandemClient(url, key) as client:
                await command(Session(client, as_json), *args, **kwargs)

        try:
            asyncio.run(connected())
        except TandemError as error:
            end = TryLater if error.retryable else Refused
            raise end(f"{error.code}: {error.detail}") from error
        except ValidationError as error:  # of a request, as it was put together
            raise Refused(f"{InvalidRequest.code}: {wording(error)}") from error

    run.__doc__ = command.__doc__
    run.__name__ = getattr(command, "__name__", "command")
    for option in _OPTIONS:
        run = option(run)
    return run  # type: ignore[return-value]


_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
    click.option("--key", envvar="TANDEM_KEY", metavar="KEY", help="API key (TANDEM_KEY)."),
    click.option(
        "--url", envvar="TANDEM_URL", default=DEFAULT_URL, show_default=True, help="The orchestrator (TANDEM_URL)."
    ),
)


async def finish(session: Session, job: JobView, bars: Bars) -> JobView:
    """Watches a job to its end; raises JobNotDone unless it succeeded."""
    show = bars.job(job.kind)
    try:
        async for update in session.client.watch(job.id):
            show(update)
    except asyncio.CancelledError:
        click.echo(f"{job.id} goes on; `tandem cancel {job.id}` ends it", err=True)
        raise
    done = await session.client.job(job.id)
    if done.state is not JobState.SUCCEEDED:
        if session.as_json:
            click.echo(done.model_dump_json(indent=2))
        raise JobNotDone(done)
    return done
