"""Commands that take settings, and groups whose errors are one line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from tandem.protocol.errors import TandemError
from tandem.settings import REQUIRED, Setting, every_setting, flag, load_settings


class Failed(click.ClickException):
    """Errors of the tree, as a line each on standard error; the exit code is 1."""

    def __init__(self, *errors: TandemError) -> None:
        super().__init__("\n".join(f"{error.code}: {error.detail}" for error in errors))


class TandemGroup(click.Group):
    """A group that ends in one line where Tandem raised on purpose; anything else is a bug and shows its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TandemError as error:
            raise Failed(error) from error
        except BaseExceptionGroup as group:  # what ends a TaskGroup comes wrapped
            wrapped, bugs = group.split(TandemError)
            if wrapped is None or bugs is not None:
                raise
            raise Failed(*_leaves(wrapped)) from group


def _leaves(group: BaseExceptionGroup[TandemError]) -> Iterator[TandemError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class SettingsCommand(click.Command):
    """A command that is called with `settings`: every one of them is a flag, and `--config` names a TOML file.

    @node.command(cls=SettingsCommand, settings=NodeSettings)
    def run(settings: NodeSettings) -> None: ...
    """

    def __init__(self, *args: Any, settings: type[BaseSettings], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._class = settings
        self._settings = [_option(setting) for setting in every_setting(settings)]
        self.params += [_CONFIG, *self._settings]

    def invoke(self, ctx: click.Context) -> Any:
        said = {option.opts[0]: ctx.params.pop(str(option.name)) for option in self._settings}
        flags = [word for name, value in said.items() if value is not None for word in (name, value)]
        ctx.params["settings"] = load_settings(self._class, ctx.params.pop("config"), flags)
        return super().invoke(ctx)


_CONFIG = click.Option(["--config"], type=click.Path(path_type=Path, dir_okay=False), help="TOML file with settings.")


def _option(setting: Setting) -> click.Option:
    """Text as yet: what it must be, the settings' class says, whichever source it comes from."""
    text = f"{setting.description} [{_shown(setting.default)}]"
    return click.Option(["__".join(setting.path), flag(setting.path)], help=text, metavar="VALUE")


def _shown(default: Any) -> str:
    """As a flag would say it."""
    if default is REQUIRED:
        return "required"
    plain = to_jsonable_python(default)
    return plain if isinstance(plain, str) else json.dumps(plain)
