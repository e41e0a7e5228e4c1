"""The `tandem` command. What it can do is told by the entry points `tandem.commands`."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from tandem.cli.commands import TandemGroup


class _Installed(TandemGroup):
    """Loads a command when it is asked for: each draws in libraries that the others have no use for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return sorted(_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        point = _points().get(cmd_name)
        loaded: Any = point.load() if point else None
        return loaded if isinstance(loaded, click.Command) else None


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="tandem.commands")}


@click.group(cls=_Installed)
@click.version_option(package_name="tandem")
def main() -> None:
    """Buy and sell compute: video transcoding and ONNX models, paid in tickets on Ethereum."""
