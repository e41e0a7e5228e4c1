"""`tandem orchestrator`: runs one, and makes keys for its submitters."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from rich.console import Console

from orchestrator import accounting, app, books
from orchestrator.adapters.store import open_store
from orchestrator.core import catalogue
from orchestrator.core.catalogue import ModelKey, key_of
from orchestrator.core.records import ApiKeyRecord, UsagePage
from orchestrator.core.views import usage_view
from orchestrator.ports.store import Store
from orchestrator.service.keys import LOCAL_OWNER, Keys
from orchestrator.settings import OrchestratorSettings
from tandem import logging as log
from tandem.cli import tables
from tandem.cli.commands import SettingsCommand, TandemGroup
from tandem.clock import SystemClock
from tandem.protocol.api import UsageList
from tandem.protocol.models import MAX_REPLICAS, ModelInfo

_DIFFERENCE, _NOT_COMPARED = 1, 3
"""Exit codes of `ledger`; 2 is click's for a wrong command."""


@click.group(cls=TandemGroup)
def orchestrator() -> None:
    """Takes jobs over HTTP, schedules them over its nodes, checks the results and pays."""


@orchestrator.command(cls=SettingsCommand, settings=OrchestratorSettings)
def run(settings: OrchestratorSettings) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    log.set_up()
    asyncio.run(app.run(settings))


@orchestrator.command(cls=SettingsCommand, settings=OrchestratorSettings)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--wide", is_flag=True, help="Show addresses whole and amounts to the wei.")
def ledger(settings: OrchestratorSettings, as_json: bool, wide: bool) -> None:
    """Show what each node is owed, was given in tickets and was paid.

    Owed is what no ticket covers, below zero what was signed ahead. In tickets is all that was signed; refused, what of
    it the node did not take. Still out are the tickets that it holds, at expected value, less its luck so far.

    Exits with 1 on any difference within the books or to the contract, and with 3 if there is none within the books and
    the chain does not answer, so that they could not be compared with it.

    Adds up every entry and every accepted attempt. Only reads, and may be run while the orchestrator is at work.
    """
    logging.getLogger("tandem.chain").addHandler(logging.NullHandler())  # the answer says what did not answer
    found, silence = asyncio.run(accounting.reconciled(settings))
    if as_json:
        click.echo(json.dumps(books.as_json(found, silence)))
    else:
        books.show(Console(), found, silence, wide=wide)
    if found.differences:
        raise click.exceptions.Exit(_DIFFERENCE)
    if silence is not None:
        raise click.exceptions.Exit(_NOT_COMPARED)


@orchestrator.command(cls=SettingsCommand, settings=OrchestratorSettings)
@click.option("--key", "key_id", help="Of one API key, by its id, or of `local`; else of all together.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Days and models.")
def usage(settings: OrchestratorSettings, key_id: str | None, limit: int) -> None:
    """Show what was used on line, by day and model, the newest day first."""
    found = asyncio.run(_usage(settings, key_id, limit))
    tables.usage(Console(), UsageList(usage=tuple(map(usage_view, found.records)), next=found.next_cursor))


@orchestrator.group()
def key() -> None:
    """API keys of submitters."""


@key.command("create", cls=SettingsCommand, settings=OrchestratorSettings)
@click.argument("name")
def create(settings: OrchestratorSettings, name: str) -> None:
    """Create a key and print it. It is shown this once: only its hash is kept."""
    if not name.strip():
        raise click.UsageError("expected a name, by which you will know the key in `tandem orchestrator key list`")
    record, text = asyncio.run(_create(settings, name))
    click.echo(f"created {record.id} for {name}", err=True)
    click.echo(text)


@key.command("list", cls=SettingsCommand, settings=OrchestratorSettings)
def list_keys(settings: OrchestratorSettings) -> None:
    """Show every key's id, name and whether it still opens."""
    for record in asyncio.run(_all(settings)):
        click.echo(f"{record.id}  {'revoked' if record.revoked_at else 'good   '}  {record.name}")


@key.command("revoke", cls=SettingsCommand, settings=OrchestratorSettings)
@click.argument("key_id")
def revoke(settings: OrchestratorSettings, key_id: str) -> None:
    """Refuse a key from now on."""
    asyncio.run(_revoke(settings, key_id))


@orchestrator.group()
def model() -> None:
    """Models of all submitters: what the operator keeps warm."""


@model.command("list", cls=SettingsCommand, settings=OrchestratorSettings)
def list_models(settings: OrchestratorSettings) -> None:
    """Show every model's owner, name, version and the replicas that are kept warm: the owner's wish, and pinned."""
    for found in asyncio.run(_all_models(settings)):
        shown = "public " if found.public else "private"
        click.echo(f"{found.owner}  {found.name}  {found.version}  {shown}  {found.settings.replicas}  {found.pinned}")


@model.command("pin", cls=SettingsCommand, settings=OrchestratorSettings)
@click.argument("name")
@click.option("--version", default="1", show_default=True)
@click.option("--owner", default=LOCAL_OWNER, show_default=True, help="The API key's id.")
@click.option("--replicas", type=click.IntRange(0, MAX_REPLICAS), required=True, help="Nodes; 0 lets go of it.")
def pin(settings: OrchestratorSettings, name: str, version: str, owner: str, replicas: int) -> None:
    """Keep a model warm on so many nodes. A running orchestrator sees it within about a second."""
    asyncio.run(_pin(settings, ModelKey(owner, name, version), replicas))


async def _all_models(settings: OrchestratorSettings) -> list[ModelInfo]:
    async with _store(settings) as store:
        return sorted((await store.catalogue()).changed, key=key_of)


async def _pin(settings: OrchestratorSettings, key: ModelKey, replicas: int) -> None:
    async with _store(settings) as store:
        await store.decide_models(key.owner, key.name, lambda known, _now: catalogue.pin(known, key, replicas))


async def _create(settings: OrchestratorSettings, name: str) -> tuple[ApiKeyRecord, str]:
    async with _keys(settings) as keys:
        return await keys.create(name)


async def _all(settings: OrchestratorSettings) -> list[ApiKeyRecord]:
    async with _keys(settings) as keys:
        return await keys.all()


async def _revoke(settings: OrchestratorSettings, key_id: str) -> None:
    async with _keys(settings) as keys:
        await keys.revoke(key_id)


async def _usage(settings: OrchestratorSettings, key_id: str | None, limit: int) -> UsagePage:
    async with _store(settings) as store:
        return await store.usage(key_id, None, limit)


@asynccontextmanager
async def _keys(settings: OrchestratorSettings) -> AsyncIterator[Keys]:
    async with _store(settings) as store:
        yield Keys(store)


@asynccontextmanager
async def _store(settings: OrchestratorSettings) -> AsyncIterator[Store]:
    settings.data.mkdir(parents=True, exist_ok=True)
    async with open_store(accounting.store_url(settings.data), SystemClock()) as store:
        yield store
