"""Whether the books agree with themselves and with the contract: pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.core.ledger import Totals, chain_account
from orchestrator.core.records import Books


@dataclass(frozen=True, slots=True)
class ContractFigures:
    """What the contract itself says, in wei, as of the block that the ledger stands at."""

    deposit: int
    reserve: int
    allocated: int
    credits: Mapping[str, int] = field(default_factory=dict)
    """What it keeps for nodes that did not take a payment, from whichever sender; now."""


@dataclass(frozen=True, slots=True)
class NodeBalance:
    node: str
    totals: Totals
    unissued: int
    """Wei of `redeemed` for tickets that were never issued here."""
    credit: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    nodes: tuple[NodeBalance, ...]
    entries: int
    debits: int
    credits: int
    """Of all entries, in wei."""
    block_number: int | None
    """Up to which the contract's events are in the ledger; None if none was read yet."""
    chain: int
    """Wei that the contract must hold for the sender, by the ledger."""
    contract: ContractFigures | None
    differences: tuple[str, ...]


def reconcile(books: Books, source: str, contract: ContractFigures | None) -> Reconciliation:
    """Without the contract's figures the books are compared with themselves alone."""
    cursor = books.cursor
    credit_of = contract.credits if contract else {}
    return Reconciliation(
        nodes=tuple(
            NodeBalance(account.node, account.totals, account.unissued, credit_of.get(account.node, 0))
            for account in books.accounts
        ),
        entries=books.balance.entries,
        debits=sum(books.balance.debits.values()),
        credits=sum(books.balance.credits.values()),
        block_number=cursor.block_number if cursor else None,
        chain=cursor.balance if cursor else 0,
        contract=contract,
        differences=(*_own(books, source), *_foreign(books), *_with_contract(books, contract)),
    )


def _own(books: Books, source: str) -> Iterator[str]:
    """What the running totals say and the entries do not."""
    for account in books.accounts:
        added_up = books.balance.totals(account.node)
        if account.totals != added_up:
            yield f"the account of {account.node} says {account.totals}, its entries add up to {added_up}"
        tried, used = books.attempts.get(account.node, 0), books.usage.get(account.node, 0)
        if account.earned != tried + used:
            yield (
                f"{account.node} earned {account.earned} wei by its account, and {tried} by its attempts "
                f"with {used} by its on-line work"
            )
    known = {account.node for account in books.accounts}
    for node in sorted((books.balance.nodes() | books.attempts.keys() | books.usage.keys()) - known):
        yield f"there are entries or paid work of {node}, which has no account"
    kept = books.cursor.balance if books.cursor else 0
    added_up_chain = books.balance.balance(chain_account(source))
    if kept != added_up_chain:
        yield f"the cursor says that the contract holds {kept} wei, the entries add up to {added_up_chain}"


def _foreign(books: Books) -> Iterator[str]:
    for finding in books.findings:
        yield (
            f"transaction 0x{finding.tx_hash.hex()} paid {finding.unissued} wei to {finding.recipient} for tickets "
            "that were never issued here: somebody else signs with the key, or this store is an old copy; revoke the "
            "signer"
        )


def _with_contract(books: Books, contract: ContractFigures | None) -> Iterator[str]:
    if contract is None or books.cursor is None:
        return
    held = contract.deposit + contract.reserve
    if held != books.cursor.balance:
        yield (
            f"the contract holds {held} wei as of block {books.cursor.block_number}, the ledger says "
            f"{books.cursor.balance}: {held - books.cursor.balance:+} wei"
        )
