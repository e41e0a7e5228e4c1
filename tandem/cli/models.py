"""`tandem model`: add models, list them, change how they are served, delete them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from tandem.cli import tables
from tandem.cli.running import Session, submitter_command
from tandem.protocol.api import ModelChange, ModelList
from tandem.protocol.ids import Name
from tandem.protocol.models import MAX_BATCH, MAX_REPLICAS, ModelSettings, Provider
from tandem.protocol.wording import wording

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class _Settings(click.ParamType[ModelSettings]):
    """A JSON file of settings, as the API takes them."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ModelSettings:
        try:
            return ModelSettings.model_validate_json(Path(str(value)).read_bytes())
        except OSError as error:
            self.fail(f"expected a JSON file of settings: {error}", param, ctx)
        except ValidationError as error:
            self.fail(f"expected a JSON file of settings, got one with {wording(error, whole='the whole')}", param, ctx)


_OPTIONS = (
    click.option("--max-batch", type=click.IntRange(1, MAX_BATCH), help="Rows of several requests run at once."),
    click.option("--batch-window-us", type=click.IntRange(0, 10**6), help="Microseconds to wait for others."),
    click.option("--provider", type=click.Choice([each.value for each in Provider]), help="Preferred."),
    click.option("--replicas", type=click.IntRange(0, MAX_REPLICAS), help="Nodes on which it is kept warm."),
    click.option("--hedge/--no-hedge", default=None, help="Whether a request that lags may be run twice."),
    click.option("--timeout-s", type=click.FloatRange(0, 3600, min_open=True), help="Seconds a request may take."),
    click.option("--settings", type=_Settings(), help="A JSON file with these and the others: warm_up, tolerance."),
)


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _settings(from_file: ModelSettings | None, said: dict[str, Any]) -> ModelSettings | None:
    """Those of the file, and over them what was said; None if neither says anything."""
    given = {name: value for name, value in said.items() if value is not None}
    if from_file is not None:
        given = {**from_file.model_dump(exclude_unset=True), **given}
    return ModelSettings.model_validate(given) if given else None


@click.group()
def model() -> None:
    """Models: add them, list them, change and delete them."""


@model.command("add")
@click.argument("file", type=_FILE)
@click.option("--name", help="By default the file's, without .onnx.")
@click.option("--version", default="1", show_default=True)
@click.option("--public", is_flag=True, help="For every key, rather than this one alone.")
@_settings_options
@submitter_command
async def model_add(
    session: Session,
    /,
    file: Path,
    name: str | None,
    version: str,
    public: bool,
    settings: ModelSettings | None,
    **said: Any,
) -> None:
    """Upload the ONNX model FILE, with the external data that it refers to, and register it."""
    wanted = _settings(settings, said)
    with session.progress() as bars:
        added = await session.client.upload_model(
            file, name or _name_of(file), version, settings=wanted, public=public, progress=bars.transfer
        )
    session.print(added, lambda console: tables.models(console, (added,)))


def _name_of(file: Path) -> str:
    name = _NOT_IN_NAMES.sub("-", file.name.removesuffix(".onnx")).strip("._-")[:64]
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise click.UsageError(f"expected a name: say --name, since {file.name!r} holds none") from error


@model.command("list")
@submitter_command
async def model_list(session: Session) -> None:
    """List the models that you may use: your own, and public ones."""
    found = await session.client.models()
    session.print(ModelList(models=found), lambda console: tables.models(console, found))


@model.command("set")
@click.argument("name")
@click.option("--version", default="1", show_default=True)
@click.option("--public/--private", default=None, help="For every key, or yours alone.")
@click.option("--default/--latest", default=None, help="Whether it answers requests that name no version.")
@_settings_options
@submitter_command
async def model_set(
    session: Session,
    /,
    name: str,
    version: str,
    public: bool | None,
    default: bool | None,
    settings: ModelSettings | None,
    **said: Any,
) -> None:
    """Change how your model NAME is served; what is not said stays."""
    wanted = {"public": public, "default": default, "settings": _settings(settings, said)}
    change = ModelChange(**{field: value for field, value in wanted.items() if value is not None})
    changed = await session.client.change_model(name, version, change)
    session.print(changed, lambda console: tables.models(console, (changed,)))


@model.command("delete")
@click.argument("name")
@click.option("--version", default="1", show_default=True)
@submitter_command
async def model_delete(session: Session, name: str, version: str) -> None:
    """Delete a version of your model NAME; jobs that use it go on to their end."""
    await session.client.delete_model(name, version)
    click.echo(f"deleted {name} version {version}", err=True)


@model.command("unload")
@click.argument("name")
@click.option("--version", default="1", show_default=True)
@submitter_command
async def model_unload(session: Session, name: str, version: str) -> None:
    """Have all nodes let go of your model NAME; the next request, or its replicas, load it again."""
    await session.client.unload_model(name, version)
    click.echo(f"unloaded {name} version {version}", err=True)
