"""The ledger: double entries in wei, and the accounts that they stand in. Pure.

| what | debit | credit |
|---|---|---|
| an attempt is accepted | `work` | `owed:<node>` |
| a window of on-line usage is settled | `work` | `owed:<node>` |
| tickets are signed, at their expected value | `owed:<node>` | `tickets:<node>` |
| a node refuses tickets | `tickets:<node>` | `owed:<node>` |
| refused tickets are redeemed all the same | `owed:<node>` | `tickets:<node>` |
| winners are paid by the contract, at their face value | `tickets:<node>` | `chain:<source>` |
| deposit or reserve is funded | `chain:<source>` | `capital` |
| deposit or reserve is withdrawn | `capital` | `chain:<source>` |
| a block vanished in a reorganisation | the reverse of what it wrote | |

So `owed` is what no ticket covers, `tickets` what is outstanding less the node's luck, and `chain` what the contract
must hold for the sender, to the wei.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

WORK = "work"
CAPITAL = "capital"
_OWED, _TICKETS, _CHAIN = "owed:", "tickets:", "chain:"


class EntryKind(StrEnum):
    EARNED = "earned"
    USED = "used"
    ISSUED = "issued"
    REFUSED = "refused"
    REFUSAL_VOIDED = "refusal_voided"
    REDEEMED = "redeemed"
    FUNDED = "funded"
    WITHDRAWN = "withdrawn"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, slots=True)
class Entry:
    """`amount` wei from one account to another; `kind` and `reference` together are unique, so none comes twice."""

    kind: EntryKind
    debit: str
    credit: str
    amount: int
    reference: str


def owed(node: str) -> str:
    return _OWED + node


def tickets(node: str) -> str:
    return _TICKETS + node


def chain_account(source: str) -> str:
    """What the contract holds: `source` names chain, contract and sender."""
    return _CHAIN + source


def earned(node: str, amount: int, attempt: str) -> Entry:
    return Entry(EntryKind.EARNED, WORK, owed(node), amount, attempt)


def used(node: str, amount: int, window: str) -> Entry:
    return Entry(EntryKind.USED, WORK, owed(node), amount, window)


def issued(node: str, amount: int, payment: int) -> Entry:
    return Entry(EntryKind.ISSUED, owed(node), tickets(node), amount, str(payment))


def refused(node: str, amount: int, payment: int) -> Entry:
    return Entry(EntryKind.REFUSED, tickets(node), owed(node), amount, str(payment))


def refusal_voided(node: str, amount: int, payment: int) -> Entry:
    return Entry(EntryKind.REFUSAL_VOIDED, owed(node), tickets(node), amount, str(payment))


def redeemed(node: str, source: str, amount: int, reference: str) -> Entry:
    return Entry(EntryKind.REDEEMED, tickets(node), chain_account(source), amount, reference)


def funded(source: str, amount: int, reference: str) -> Entry:
    return Entry(EntryKind.FUNDED, chain_account(source), CAPITAL, amount, reference)


def withdrawn(source: str, amount: int, reference: str) -> Entry:
    return Entry(EntryKind.WITHDRAWN, CAPITAL, chain_account(source), amount, reference)


def taken_back(entry: Entry, posting: int) -> Entry:
    """The reverse of an entry, whose number in the ledger is `posting`."""
    return Entry(EntryKind.TAKEN_BACK, entry.credit, entry.debit, entry.amount, str(posting))


@dataclass(frozen=True, slots=True)
class Totals:
    """What has passed between the orchestrator and one node since the beginning, in wei."""

    earned: int = 0
    """By accepted attempts, and by on-line work."""
    issued: int = 0
    """Expected value of tickets that were signed."""
    refused: int = 0
    """Expected value of tickets that the node would not take and did not redeem either."""
    redeemed: int = 0
    """Face value of winners that the contract paid."""

    @property
    def owed(self) -> int:
        """Earned and covered by no ticket; below zero for what was signed ahead."""
        return self.earned - self.issued + self.refused

    @property
    def outstanding(self) -> int:
        """What the tickets that the node holds were worth less what they paid: unredeemed winners, less its luck."""
        return self.issued - self.refused - self.redeemed


@dataclass(slots=True)
class TrialBalance:
    """All entries, added up again."""

    debits: dict[str, int] = field(default_factory=dict)
    """Wei, by account."""
    credits: dict[str, int] = field(default_factory=dict)
    kinds: dict[tuple[EntryKind, str], int] = field(default_factory=dict)
    """Wei, by kind and credited account."""
    entries: int = 0

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.entries += 1
            self.debits[entry.debit] = self.debits.get(entry.debit, 0) + entry.amount
            self.credits[entry.credit] = self.credits.get(entry.credit, 0) + entry.amount
            kind = (entry.kind, entry.credit)
            self.kinds[kind] = self.kinds.get(kind, 0) + entry.amount

    def balance(self, account: str) -> int:
        """Debits less credits."""
        return self.debits.get(account, 0) - self.credits.get(account, 0)

    def accounts(self) -> list[str]:
        return sorted(self.debits.keys() | self.credits.keys())

    def nodes(self) -> set[str]:
        """All that have entries."""
        names = (account.partition(":") for account in self.accounts())
        return {node for kind, colon, node in names if kind + colon in {_OWED, _TICKETS}}

    def totals(self, node: str) -> Totals:
        """What the account of a node must say."""
        refused_value = self.kinds.get((EntryKind.REFUSED, owed(node)), 0)
        voided = self.kinds.get((EntryKind.REFUSAL_VOIDED, tickets(node)), 0)
        issued_value = self.kinds.get((EntryKind.ISSUED, tickets(node)), 0)
        # What remains of the debits of `tickets` are redemptions, and of its credits those that were taken back.
        paid = self.debits.get(tickets(node), 0) - refused_value
        returned = self.credits.get(tickets(node), 0) - issued_value - voided
        return Totals(
            earned=self.credits.get(owed(node), 0) - refused_value,
            issued=issued_value,
            refused=refused_value - voided,
            redeemed=paid - returned,
        )
