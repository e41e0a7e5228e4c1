"""`tandem chain`: the ticket contract from the command line."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from tandem.chain.broker import SenderFunds, TicketBroker, deployment
from tandem.chain.keystore import create_keystore, load_keystore
from tandem.chain.rpc import Chain, connect
from tandem.chain.settings import endpoint_url
from tandem.chain.transactions import GWEI, MemoryJournal, TransactionPolicy, TransactionSender
from tandem.clock import SystemClock
from tandem.protocol.errors import ConfigurationError, TandemError
from tandem.protocol.signing import Address, parse_address
from tandem.protocol.units import format_amount, parse_amount

P = ParamSpec("P")
Command = Callable[..., Coroutine[Any, Any, None]]


class _Url(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return endpoint_url(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


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


class _Share(_Amount):
    """An amount, or all that there is: None."""

    name = "amount|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return ALL if value == "all" else super().convert(value, param, ctx)


ALL = -1
URL = _Url()
ADDRESS = _Address()
SHARE = _Share()
AMOUNT = _Amount()
FILE = click.Path(path_type=Path, dir_okay=False)

_contract = click.option("--contract", required=True, type=ADDRESS, help="The ticket contract.")
_password_file = click.option("--password-file", required=True, type=FILE, help="Holds the keystore's password.")
_to = click.option("--to", type=ADDRESS, help="Who gets it; the account itself if not given.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_connection = (
    click.option(
        "--rpc",
        required=True,
        multiple=True,
        type=URL,
        help="The chain's JSON-RPC endpoint; several are tried in turn.",
    ),
    click.option("--chain-id", type=click.IntRange(1), help="The chain that must be served; whichever if not given."),
)
_account = (
    *_connection,
    click.option("--keystore", required=True, type=FILE, help="The account's encrypted key."),
    _password_file,
    click.option("--confirmations", type=click.IntRange(1, 120), default=1, show_default=True, help="Blocks to wait."),
    click.option("--max-fee-per-gas", type=AMOUNT, default=200 * GWEI, help="To pay for a unit of gas; 200gwei."),
)


@dataclass(frozen=True, slots=True)
class Connection:
    rpc: tuple[str, ...]
    chain_id: int | None

    def open(self) -> AbstractAsyncContextManager[Chain]:
        return connect(*self.rpc, chain_id=self.chain_id)


@dataclass(frozen=True, slots=True)
class Payer:
    """The account that a command acts for, and how it pays."""

    rpc: tuple[str, ...]
    chain_id: int | None
    keystore: Path
    password_file: Path
    confirmations: int
    max_fee_per_gas: int

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransactionSender]:
        key = load_keystore(self.keystore, self.password_file)
        policy = TransactionPolicy(self.confirmations, self.max_fee_per_gas, poll_seconds=0.5)
        async with Connection(self.rpc, self.chain_id).open() as connected:
            yield TransactionSender(connected, key, MemoryJournal(), SystemClock(), policy)

    @asynccontextmanager
    async def at(self, contract: Address) -> AsyncIterator[tuple[TransactionSender, TicketBroker]]:
        async with self.open() as account:
            broker = TicketBroker(account.chain, contract)
            await broker.check()
            yield account, broker


def _runs(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async command; an error of Tandem's is one line and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(command(*args, **kwargs))
        except TandemError as error:
            raise click.ClickException(str(error)) from error

    return run


def _taking(kind: type[Any], options: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Callable[..., None]]:
    """Give the command one object, made of these options, as its first argument."""
    names = [field.name for field in fields(kind)]

    def decorate(command: Command) -> Callable[..., None]:
        @wraps(command)
        async def with_object(**given: Any) -> None:
            await command(kind(**{name: given.pop(name) for name in names}), **given)

        run = _runs(with_object)
        for option in reversed(options):
            run = option(run)
        return run

    return decorate


_reads = _taking(Connection, _connection)
_sends = _taking(Payer, _account)


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            if re.match(r"-\.?[0-9]", word):  # which would be taken for an option
                raise click.UsageError(f"expected an amount of 0 or more, got {word!r}", ctx)
        return super().parse_args(ctx, args)


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group)
def chain() -> None:
    """The ticket contract: deploy it, fund it, look into it, take money out of it."""


@chain.command()
@_sends
@click.option("--unlock-period", type=click.IntRange(1, 2**32 - 1), required=True, help="In seconds.")
@_json
async def deploy(payer: Payer, unlock_period: int, as_json: bool) -> None:
    """Deploy the contract and print its address."""
    async with payer.open() as account:
        mined = await account.send(deployment(unlock_period), "deploy")
        found = {
            "contract": mined.contract,
            "chain_id": account.chain.chain_id,
            "block_number": mined.block_number,
            "tx_hash": "0x" + mined.transaction.tx_hash.hex(),
        }
        click.echo(json.dumps(found) if as_json else mined.contract)


@chain.command()
@_sends
@_contract
@click.option("--deposit", type=AMOUNT, default=0, help="To add to the deposit: 1500, 3gwei or 0.25ether.")
@click.option("--reserve", type=AMOUNT, default=0, help="To add to the reserve.")
@click.option("--sender", type=ADDRESS, help="Whose; the account's own if not given.")
async def fund(payer: Payer, contract: Address, deposit: int, reserve: int, sender: Address | None) -> None:
    """Add to a sender's deposit, reserve or both."""
    if not deposit and not reserve:
        raise click.UsageError("expected --deposit or --reserve, got neither: say how much to add")
    async with payer.at(contract) as (account, broker):
        whose = sender or account.address
        if deposit:
            await account.send(broker.fund_deposit(whose, deposit), "fund deposit")
            click.echo(f"added {format_amount(deposit)} to the deposit of {whose}")
        if reserve:
            await account.send(broker.fund_reserve(whose, reserve), "fund reserve")
            click.echo(f"added {format_amount(reserve)} to the reserve of {whose}")


@chain.command()
@_sends
@_contract
@click.argument("allocations", nargs=-1, required=True, metavar="RECIPIENT AMOUNT [RECIPIENT AMOUNT]…")
async def allocate(payer: Payer, contract: Address, allocations: tuple[str, ...]) -> None:
    """Set what of the account's reserve recipients alone may draw, all in one transaction.

    Raising is immediate; lowering waits for the unlock period.
    """
    wanted = _allocations(allocations)
    async with payer.at(contract) as (account, broker):
        await account.send(broker.allocate(wanted), "allocate")
        for recipient, _ in wanted:
            found = await broker.funds(account.address, recipient)
            click.echo(f"{recipient} alone may draw {format_amount(found.allocation)}{_falls(found)}")


def _allocations(words: Sequence[str]) -> list[tuple[Address, int]]:
    if len(words) % 2:
        raise click.UsageError(f"expected pairs of RECIPIENT and AMOUNT, got {len(words)} words")
    wanted = [
        (ADDRESS.convert(recipient, None, None), AMOUNT.convert(amount, None, None))
        for recipient, amount in zip(words[::2], words[1::2], strict=True)
    ]
    times = Counter(recipient for recipient, _ in wanted)
    if twice := [recipient for recipient, count in times.items() if count > 1]:
        raise click.UsageError(f"expected each RECIPIENT once, got {', '.join(twice)} several times")
    return wanted


@chain.command("authorise-signer")
@_sends
@_contract
@click.argument("signer", type=ADDRESS)
async def authorise_signer(payer: Payer, contract: Address, signer: Address) -> None:
    """Let a key sign the account's tickets, and nothing else."""
    async with payer.at(contract) as (account, broker):
        await account.send(broker.authorise_signer(signer), "authorise signer")
        click.echo(f"{signer} may sign tickets of {account.address}")


@chain.command("revoke-signer")
@_sends
@_contract
@click.argument("signer", type=ADDRESS)
async def revoke_signer(payer: Payer, contract: Address, signer: Address) -> None:
    """End a key's right to sign the account's tickets, once the unlock period has passed."""
    async with payer.at(contract) as (account, broker):
        await account.send(broker.revoke_signer(signer), "revoke signer")
        until = await broker.signer_valid_until(account.address, signer)
        click.echo(f"{signer} may sign tickets of {account.address} until {_time(until)}")


@chain.command()
@_sends
@_contract
async def unlock(payer: Payer, contract: Address) -> None:
    """Start the unlock period, after which the deposit and what is not allocated of the reserve may be withdrawn."""
    async with payer.at(contract) as (account, broker):
        await account.send(broker.unlock(), "unlock")
        click.echo(f"{account.address}: {_lock(await broker.funds(account.address, account.address))}")


@chain.command("cancel-unlock")
@_sends
@_contract
async def cancel_unlock(payer: Payer, contract: Address) -> None:
    """Lock the account's deposit and reserve again."""
    async with payer.at(contract) as (account, broker):
        await account.send(broker.cancel_unlock(), "cancel unlock")
        click.echo(f"{account.address}: {_lock(await broker.funds(account.address, account.address))}")


@chain.command("withdraw-deposit")
@_sends
@_contract
@_to
@click.argument("amount", type=SHARE)
async def withdraw_deposit(payer: Payer, contract: Address, to: Address | None, amount: int) -> None:
    """Take from the account's deposit, once it is unlocked: an amount, or all."""
    async with payer.at(contract) as (account, broker):
        whole = (await broker.funds(account.address, account.address)).deposit
        wei, receiver = _share(amount, whole, "deposit"), to or account.address
        await account.send(broker.withdraw_deposit(wei, receiver), "withdraw deposit")
        click.echo(f"sent {format_amount(wei)} of the deposit to {receiver}")


@chain.command("withdraw-reserve")
@_sends
@_contract
@_to
@click.argument("amount", type=SHARE)
async def withdraw_reserve(payer: Payer, contract: Address, to: Address | None, amount: int) -> None:
    """Take from what is not allocated of the account's reserve, once it is unlocked: an amount, or all."""
    async with payer.at(contract) as (account, broker):
        found = await broker.funds(account.address, account.address)
        wei = _share(amount, found.reserve - found.allocated, "reserve that is not allocated")
        receiver = to or account.address
        await account.send(broker.withdraw_reserve(wei, receiver), "withdraw reserve")
        click.echo(f"sent {format_amount(wei)} of the reserve to {receiver}")


@chain.command("withdraw-credit")
@_sends
@_contract
@_to
async def withdraw_credit(payer: Payer, contract: Address, to: Address | None) -> None:
    """Take what tickets paid and the account did not accept."""
    async with payer.at(contract) as (account, broker):
        wei, receiver = _share(ALL, await broker.credit(account.address), "credit"), to or account.address
        await account.send(broker.withdraw_credit(receiver), "withdraw credit")
        click.echo(f"sent {format_amount(wei)} of credit to {receiver}")


def _share(amount: int, whole: int, what: str) -> int:
    if amount == ALL and not whole:
        raise ConfigurationError(f"expected a {what} of the account to withdraw, there is none")
    return whole if amount == ALL else amount


@chain.command("funds")
@_reads
@_contract
@click.argument("sender", type=ADDRESS)
@click.argument("recipient", type=ADDRESS)
@_json
async def show_funds(
    connection: Connection, contract: Address, sender: Address, recipient: Address, as_json: bool
) -> None:
    """Show what stands behind a sender's tickets to a recipient."""
    async with connection.open() as connected:
        broker = TicketBroker(connected, contract)
        await broker.check()
        found = await broker.funds(sender, recipient)
    if as_json:
        times = {"lowers_at", "unlock_at"}
        click.echo(json.dumps({key: value if key in times else str(value) for key, value in asdict(found).items()}))
        return
    click.echo(f"deposit     {format_amount(found.deposit)}, shared by all recipients")
    click.echo(f"reserve     {format_amount(found.reserve)}, of it {format_amount(found.allocated)} allocated")
    click.echo(f"allocation  {format_amount(found.allocation)}, for this recipient alone{_falls(found)}")
    click.echo(_lock(found))


@chain.command()
@_reads
@click.argument("address", type=ADDRESS)
@_json
async def balance(connection: Connection, address: Address, as_json: bool) -> None:
    """Show what an account holds outside the contract."""
    async with connection.open() as connected:
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


def _falls(funds: SenderFunds) -> str:
    if funds.lowers_at is None:
        return ""
    return f", and {format_amount(funds.lowered_to)} from {_time(funds.lowers_at)} on"


def _lock(funds: SenderFunds) -> str:
    return "locked" if funds.unlock_at is None else f"may be withdrawn from {_time(funds.unlock_at)} on"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
