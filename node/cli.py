"""`tandem node`: runs one, looks at the machine, shows what was earned."""

import asyncio
import json
from dataclasses import asdict

import click

from node import app
from node.adapters.detection import examine
from node.adapters.ticket_store import SqliteTicketStore
from node.ports.tickets import TicketTotals
from node.settings import NodeSettings
from tandem import logging as log
from tandem.chain.keystore import load_keystore
from tandem.cli.commands import SettingsCommand, TandemGroup
from tandem.clock import SystemClock
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.units import format_amount

_WEI = frozenset({"earned", "received", "outstanding", "redeemed", "gas_spent"})
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=TandemGroup)
def node() -> None:
    """Works for an orchestrator with this machine, and is paid for it."""


@node.command(cls=SettingsCommand, settings=NodeSettings)
def run(settings: NodeSettings) -> None:
    """Work until SIGTERM. Makes a key in the data folder at the first start."""
    log.set_up(settings.log_level)
    asyncio.run(app.run(settings))


@node.command()
def doctor() -> None:
    """Say what this machine can do, what is missing, and how to get it. Measures for some ten seconds."""
    for finding in asyncio.run(examine(SystemClock())):
        click.echo(f"{'ok     ' if finding.ok else 'MISSING'} {finding}")


@node.command(cls=SettingsCommand, settings=NodeSettings)
@_json
def status(settings: NodeSettings, as_json: bool) -> None:
    """Show what was earned, received in tickets, won and redeemed; also while the node runs."""
    address = load_keystore(settings.keystore, settings.password_file).address
    totals = asyncio.run(_totals(settings, address))
    shown: dict[str, object] = {"address": address}
    for name, value in asdict(totals).items():
        wei = name in _WEI
        shown[name] = value if not wei else str(value) if as_json else format_amount(value)
    if as_json:
        click.echo(json.dumps(shown))
    else:
        click.echo("\n".join(f"{name:<12} {value}" for name, value in shown.items()))


@node.group()
def key() -> None:
    """The node's key: its identity, and the account that earns."""


@key.command(cls=SettingsCommand, settings=NodeSettings)
def create(settings: NodeSettings) -> None:
    """Make the key that `run` would make, and print its address. An existing one is left as it is."""
    click.echo(app.open_key(settings).address)


async def _totals(settings: NodeSettings, address: str) -> TicketTotals:
    path = settings.data / "tickets.db"
    if not path.exists():
        raise ConfigurationError(f"expected a ticket store at {path}, found none; start the node first")
    domain = settings.chain.domain
    async with SqliteTicketStore(path, address, domain) as store:
        return await store.totals(SystemClock().now())
