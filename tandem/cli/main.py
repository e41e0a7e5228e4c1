"""The `tandem` command. What it can do is told by the entry points `tandem.commands`."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click

from tandem import logging as log
from tandem.cli.commands import TandemGroup

SUMMARIES: Final = {
    "cancel": "Cancel JOB; work that was accepted by then stays charged.",
    "chain": "The ticket contract: deploy it, fund it, look into it, take money out of it.",
    "explain": "Say why JOB is waiting, node by node.",
    "infer": "Run MODEL on input tensors: NAME=[…] or NAME=@FILE, nested like the tensor or flat.",
    "infer-batch": "Run MODEL on each row of FILE (JSON Lines, .npz or Arrow IPC), or of the file at URL.",
    "jobs": "List your jobs, newest first.",
    "model": "Models: add them, list them, change and delete them.",
    "node": "Works for an orchestrator with this machine, and is paid for it.",
    "nodes": "List the nodes that are connected.",
    "orchestrator": "Takes jobs over HTTP, schedules them over its nodes, checks the results and pays.",
    "retry": "Try JOB again, which failed; what is done is kept.",
    "transcode": "Transcode FILE, or the file at URL, into renditions.",
    "usage": "List what you used on line, by day and model.",
    "webhooks": "Webhooks: where each state of your jobs is told, and what became of it.",
}
"""The commands' own first lines, so that listing them takes no import of what they need: that is seconds."""


class _Installed(TandemGroup):
    """Loads a command when it is asked for: each draws in libraries that the others have no use for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return sorted(_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        point = _points().get(cmd_name)
        loaded: Any = point.load() if point else None
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="tandem.commands")}


@click.group(cls=_Installed)
@click.version_option(package_name="tandem")
def main() -> None:
    """Buy and sell compute: video transcoding and ONNX models, paid in tickets on Ethereum."""
    log.keep_quiet()
