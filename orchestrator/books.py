"""The ledger, for people and for programs."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator.core.reconciliation import NodeBalance, Reconciliation
from tandem.cli.tables import show as show_table
from tandem.protocol.units import format_amount

_WIDE = 400
"""Columns: more than any row takes."""
_UNITS = (("ether", 18), ("gwei", 9), ("wei", 0))
_FIGURES = 6
"""Of the largest amount, at least as many as there are digits before its point."""


def show(console: Console, found: Reconciliation, silence: str | None, *, wide: bool) -> None:
    """`silence`: why the contract's own figures are not there. `wide`: addresses whole, amounts exact."""
    if wide:
        columns = ("node", "earned", "owed", "in tickets", "refused", "redeemed", "outstanding less luck", "credit")
        rows = [(each.node, *map(_wei, _amounts(each))) for each in found.nodes]
        show_table(Console(file=console.file, width=_WIDE), columns, rows)
    else:
        _show_short(console, found.nodes)
    lines = [
        f"entries     {found.entries}",
        f"debits      {_wei(found.debits)}",
        f"credits     {_wei(found.credits)}",
        f"by ledger   {_wei(found.chain)} in the contract, as of block {found.block_number}",
    ]
    if found.contract is None:
        lines.append(f"on chain    not compared: {silence}")
    else:
        deposit, reserve = _wei(found.contract.deposit), _wei(found.contract.reserve)
        allocated = _wei(found.contract.allocated)
        lines.append(f"on chain    deposit {deposit}, reserve {reserve}, of it {allocated} allocated")
    lines.extend(f"DIFFERENCE  {difference}" for difference in found.differences)
    if not found.differences:
        lines.append("no difference" if found.contract else "no difference within the ledger")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def as_json(found: Reconciliation, silence: str | None) -> dict[str, Any]:
    """Amounts are decimal text, in wei."""
    contract = found.contract
    return {
        "nodes": [_fields(each) for each in found.nodes],
        "entries": found.entries,
        "debits": str(found.debits),
        "credits": str(found.credits),
        "block_number": found.block_number,
        "chain": str(found.chain),
        "contract": contract
        and {
            "deposit": str(contract.deposit),
            "reserve": str(contract.reserve),
            "allocated": str(contract.allocated),
        },
        "not_compared": silence,
        "differences": list(found.differences),
    }


def _show_short(console: Console, nodes: Sequence[NodeBalance]) -> None:
    """Within 80 columns: all amounts in the one unit that suits the largest, rounded."""
    largest = max((abs(amount) for each in nodes for amount in _amounts(each)), default=0)
    unit, digits = next((unit, digits) for unit, digits in _UNITS if largest >= 10**digits // 100 or not digits)
    decimals = min(digits, max(0, _FIGURES - len(str(largest // 10**digits))))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("node", no_wrap=True)
    for column in ("earned", "owed", "in tickets", "refused", "redeemed", "still out", "credit"):
        table.add_column(column, justify="right", overflow="fold")
    for each in nodes:
        amounts = (_rounded(amount, digits, decimals) for amount in _amounts(each))
        table.add_row(f"{each.node[:6]}…{each.node[-4:]}", *amounts)
    console.print(table)
    console.print(f"in {unit}, rounded; exact with --wide or --json\n", highlight=False)


def _rounded(amount: int, digits: int, decimals: int) -> str:
    step = 10 ** (digits - decimals)
    whole, rest = divmod((abs(amount) + step // 2) // step, 10**decimals)
    sign = "-" if amount < 0 and (whole or rest) else ""
    return f"{sign}{whole}.{rest:0{decimals}}" if decimals else f"{sign}{whole}"


def _amounts(each: NodeBalance) -> tuple[int, ...]:
    totals = each.totals
    sums = (totals.earned, totals.owed, totals.issued, totals.refused, totals.redeemed, totals.outstanding)
    return (*sums, each.credit)


def _fields(each: NodeBalance) -> dict[str, str]:
    totals = each.totals
    return {
        "node": each.node,
        "earned": str(totals.earned),
        "owed": str(totals.owed),
        "issued": str(totals.issued),
        "refused": str(totals.refused),
        "redeemed": str(totals.redeemed),
        "outstanding": str(totals.outstanding),
        "unissued": str(each.unissued),
        "credit": str(each.credit),
    }


def _wei(amount: int) -> str:
    return format_amount(amount) if amount >= 0 else f"-{format_amount(-amount)}"
