"""`tandem node`: runs one, looks at the machine, shows what was earned."""

import asyncio
import json
from collections.abc import Mapping

import click

from node import app
from node.adapters.detection import examine
from node.settings import NodeSettings
from node.standing import Shown, Wei, standing
from tandem import logging as log
from tandem.chain.keystore import load_keystore
from tandem.cli.commands import SettingsCommand, TandemGroup
from tandem.clock import SystemClock
from tandem.protocol.units import format_amount

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
    """Show what was earned, received, won and redeemed, how chain and orchestrator stand, and what keeps it from
    earning; also while the node runs, and while no chain answers.
    """
    key = load_keystore(settings.keystore, settings.password_file)
    shown = asyncio.run(standing(settings, key, SystemClock()))
    if as_json:
        click.echo(json.dumps({name: _plain(value) for name, value in shown.items()}))
    else:
        click.echo("\n".join(f"{name:<12} {_readable(value)}" for name, value in shown.items()))


def _plain(value: Shown) -> object:
    return str(value.amount) if isinstance(value, Wei) else value


def _readable(value: Shown) -> str:
    match value:
        case Wei(amount):
            return format_amount(amount)
        case tuple():
            return f"\n{'':<13}".join(value) or "none known"
        case Mapping():
            return ", ".join(f"{count} {reason}" for reason, count in value.items()) or "none"
        case _:
            return str(value)


@node.group()
def key() -> None:
    """The node's key: its identity, and the account that earns."""


@key.command(cls=SettingsCommand, settings=NodeSettings)
def create(settings: NodeSettings) -> None:
    """Make the key that `run` would make, and print its address. An existing one is left as it is."""
    click.echo(app.open_key(settings).address)
