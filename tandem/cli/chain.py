"""`tandem chain`: the ticket contract from the command line."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from tandem.chain.broker import SenderFunds, TicketBroker, deployment
from tandem.chain.keystore import create_keystore, load_keystore
from tandem.chain.rpc import connect
from tandem.chain.transactions import MemoryJournal, TransactionPolicy, TransactionSender
from tandem.clock import SystemClock
from tandem.protocol.errors import TandemError
from tandem.protocol.signing import Address, parse_address
from tandem.protocol.units import format_amount, parse_amount

P = ParamSpec("P")


class _Address(click.ParamType[str]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Amount(click.ParamType[int]):
    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_amount(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


ADDRESS = _Address()
AMOUNT = _Amount()
FILE = click.Path(path_type=Path, dir_okay=False)

_rpc = click.option("--rpc", required=True, metavar="URL", help="The chain's JSON-RPC endpoint.")
_contract = click.option("--contract", required=True, type=ADDRESS, help="The ticket contract.")
_keystore = click.option("--keystore", required=True, type=FILE, help="The account's encrypted key.")
_password_file = click.option("--password-file", required=True, type=FILE, help="Holds the keystore's password.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _runs(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async command; an error of Tandem's is one line and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(command(*args, **kwargs))
        except TandemError as error:
            raise click.ClickException(str(error)) from error

    return run


@click.group()
def chain() -> None:
    """The ticket contract: deploy it, fund it, look into it."""


@chain.command()
@_rpc
@_keystore
@_password_file
@click.option("--unlock-period", type=click.IntRange(1, 2**32 - 1), required=True, help="In seconds.")
@_json
@_runs
async def deploy(rpc: str, keystore: Path, password_file: Path, unlock_period: int, as_json: bool) -> None:
    """Deploy the contract and print its address."""
    async with _account(rpc, keystore, password_file) as account:
        mined = await account.send(deployment(unlock_period), "deploy")
        fields = {
            "contract": mined.contract,
            "chain_id": account.chain.chain_id,
            "block_number": mined.block_number,
            "tx_hash": "0x" + mined.transaction.tx_hash.hex(),
        }
        click.echo(json.dumps(fields) if as_json else mined.contract)


@chain.command()
@_rpc
@_contract
@_keystore
@_password_file
@click.option("--deposit", type=AMOUNT, default=0, help="To add to the deposit: 1500, 3gwei or 0.25ether.")
@click.option("--reserve", type=AMOUNT, default=0, help="To add to the reserve.")
@click.option("--sender", type=ADDRESS, help="Whose; the account's own if not given.")
@_runs
async def fund(
    rpc: str, contract: Address, keystore: Path, password_file: Path, deposit: int, reserve: int, sender: Address | None
) -> None:
    """Add to a sender's deposit, reserve or both."""
    if not deposit and not reserve:
        raise click.UsageError("expected --deposit or --reserve, got neither: say how much to add")
    async with _account(rpc, keystore, password_file) as account:
        broker = await _broker(account, contract)
        whose = sender or account.address
        if deposit:
            await account.send(broker.fund_deposit(whose, deposit), "fund deposit")
            click.echo(f"added {format_amount(deposit)} to the deposit of {whose}")
        if reserve:
            await account.send(broker.fund_reserve(whose, reserve), "fund reserve")
            click.echo(f"added {format_amount(reserve)} to the reserve of {whose}")


@chain.command()
@_rpc
@_contract
@_keystore
@_password_file
@click.argument("recipient", type=ADDRESS)
@click.argument("amount", type=AMOUNT)
@_runs
async def allocate(
    rpc: str, contract: Address, keystore: Path, password_file: Path, recipient: Address, amount: int
) -> None:
    """Set what of the account's reserve a recipient alone may draw; lowering waits for the unlock period."""
    async with _account(rpc, keystore, password_file) as account:
        broker = await _broker(account, contract)
        await account.send(broker.allocate([(recipient, amount)]), "allocate")
        _show(await broker.funds(account.address, recipient))


@chain.command("authorise-signer")
@_rpc
@_contract
@_keystore
@_password_file
@click.argument("signer", type=ADDRESS)
@_runs
async def authorise_signer(rpc: str, contract: Address, keystore: Path, password_file: Path, signer: Address) -> None:
    """Let a key sign the account's tickets, and nothing else."""
    async with _account(rpc, keystore, password_file) as account:
        broker = await _broker(account, contract)
        await account.send(broker.authorise_signer(signer), "authorise signer")
        click.echo(f"{signer} may sign tickets of {account.address}")


@chain.command()
@_rpc
@_contract
@click.argument("sender", type=ADDRESS)
@click.argument("recipient", type=ADDRESS)
@_json
@_runs
async def funds(rpc: str, contract: Address, sender: Address, recipient: Address, as_json: bool) -> None:
    """Show what stands behind a sender's tickets to a recipient."""
    async with connect(rpc) as connected:
        broker = TicketBroker(connected, contract)
        await broker.check()
        found = await broker.funds(sender, recipient)
    if as_json:
        times = {"lowers_at", "unlock_at"}
        fields = {name: value if name in times else str(value) for name, value in asdict(found).items()}
        click.echo(json.dumps(fields))
    else:
        _show(found)


@chain.command()
@_rpc
@click.argument("address", type=ADDRESS)
@_json
@_runs
async def balance(rpc: str, address: Address, as_json: bool) -> None:
    """Show what an account holds outside the contract."""
    async with connect(rpc) as connected:
        wei = await connected.balance(address)
    click.echo(json.dumps({"address": address, "wei": str(wei)}) if as_json else format_amount(wei))


@chain.group("keystore")
def keystores() -> None:
    """Encrypted key files."""


@keystores.command("create")
@click.argument("path", type=FILE)
@_password_file
@_runs
async def create(path: Path, password_file: Path) -> None:
    """Make a key, encrypt it with the password in the file, and print its address."""
    click.echo(create_keystore(path, password_file))


@asynccontextmanager
async def _account(rpc: str, keystore: Path, password_file: Path) -> AsyncIterator[TransactionSender]:
    key = load_keystore(keystore, password_file)
    async with connect(rpc) as connected:
        yield TransactionSender(connected, key, MemoryJournal(), SystemClock(), TransactionPolicy())


async def _broker(account: TransactionSender, contract: Address) -> TicketBroker:
    broker = TicketBroker(account.chain, contract)
    await broker.check()
    return broker


def _show(funds: SenderFunds) -> None:
    click.echo(f"deposit     {format_amount(funds.deposit)}, shared by all recipients")
    click.echo(f"reserve     {format_amount(funds.reserve)}, of it {format_amount(funds.allocated)} allocated")
    click.echo(f"allocation  {format_amount(funds.allocation)}, for this recipient alone")
    if funds.lowers_at is not None:
        click.echo(f"            falls to {format_amount(funds.lowered_to)} at {_time(funds.lowers_at)}")
    click.echo("locked" if funds.unlock_at is None else f"may be withdrawn from {_time(funds.unlock_at)} on")


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
