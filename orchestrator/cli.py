"""`tandem orchestrator`: runs one, and makes keys for its submitters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
from tandem.logging import set_up
from tandem.settings import load_settings

from orchestrator import app
from orchestrator.adapters.store import open_store
from orchestrator.service.keys import Keys
from orchestrator.settings import OrchestratorSettings
from tandem.clock import SystemClock

P = ParamSpec("P")


def _with_settings(command: Callable[Concatenate[OrchestratorSettings, P], Coroutine[Any, Any, None]]) -> Any:
    """Gives an async command the settings; every setting is a flag of it."""

    @click.option("--config", type=click.Path(path_type=Path), help="TOML file, such as config/orchestrator.toml.")
    @click.argument("flags", nargs=-1, type=click.UNPROCESSED)
    @wraps(command)
    def wrapped(config: Path | None, flags: tuple[str, ...], *args: P.args, **kwargs: P.kwargs) -> None:
        settings = load_settings(OrchestratorSettings, config, flags)
        asyncio.run(command(settings, *args, **kwargs))

    return wrapped


_FLAGS = {"ignore_unknown_options": True}


@click.group()
def orchestrator() -> None:
    """Takes jobs over HTTP, schedules them over its nodes, checks the results and pays."""


@orchestrator.command(context_settings=_FLAGS)
@_with_settings
async def run(settings: OrchestratorSettings) -> None:
    """Serve until SIGTERM. Every setting is a flag too, such as --http.port 8080."""
    set_up()
    await app.run(settings)


@orchestrator.group()
def key() -> None:
    """API keys of submitters."""


@key.command("create", context_settings=_FLAGS)
@click.argument("name")
@_with_settings
async def create(settings: OrchestratorSettings, name: str) -> None:
    """Create a key. It is shown once: only its hash is kept."""
    async with _keys(settings) as keys:
        record, text = await keys.create(name)
    click.echo(f"{text}\nid {record.id}; send it as `Authorization: Bearer {text[:8]}…`", err=False)


@key.command("list", context_settings=_FLAGS)
@_with_settings
async def list_keys(settings: OrchestratorSettings) -> None:
    """Show every key's id, name and whether it was revoked."""
    async with _keys(settings) as keys:
        for record in await keys.all():
            click.echo(f"{record.id}  {record.name}  {'revoked' if record.revoked_at else 'good'}")


@key.command("revoke", context_settings=_FLAGS)
@click.argument("key_id")
@_with_settings
async def revoke(settings: OrchestratorSettings, key_id: str) -> None:
    """Refuse a key from now on."""
    async with _keys(settings) as keys:
        await keys.revoke(key_id)


@asynccontextmanager
async def _keys(settings: OrchestratorSettings) -> AsyncIterator[Keys]:
    settings.data.mkdir(parents=True, exist_ok=True)
    async with open_store(app.store_url(settings.data), SystemClock()) as store:
        yield Keys(store)
