"""The ledger, for people and for programs."""

from typing import Any

from rich.console import Console

from orchestrator.core.reconciliation import NodeBalance, Reconciliation
from tandem.cli.tables import show as show_table
from tandem.protocol.units import format_amount


def show(console: Console, found: Reconciliation, silence: str | None) -> None:
    """`silence`: why the contract's own figures are not there."""
    columns = ("node", "earned", "owed", "in tickets", "refused", "redeemed", "outstanding less luck", "credit")
    show_table(console, columns, [_cells(each) for each in found.nodes])
    lines = [
        f"entries     {found.entries}: debits {_wei(found.debits)}, credits {_wei(found.credits)}",
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


def _cells(each: NodeBalance) -> tuple[str, ...]:
    totals = each.totals
    amounts = (totals.earned, totals.owed, totals.issued, totals.refused, totals.redeemed, totals.outstanding)
    return (each.node, *map(_wei, amounts), _wei(each.credit))


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
