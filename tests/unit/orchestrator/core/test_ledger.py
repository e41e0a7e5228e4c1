from dataclasses import replace

import pytest

from orchestrator.core import ledger
from orchestrator.core.ledger import Entry, EntryKind, Totals, TrialBalance
from orchestrator.core.reconciliation import ContractFigures, Reconciliation, reconcile
from orchestrator.core.records import AccountRecord, Books, Cursor, Finding

NODE = "0xa1"
SOURCE = "1:0xc0:0x5e"
PAID = ledger.redeemed(NODE, SOURCE, 600, "r")
ENTRIES = [
    ledger.earned(NODE, 250, "t#1"),
    ledger.issued(NODE, 300, 1),
    ledger.issued(NODE, 100, 2),
    ledger.refused(NODE, 100, 2),
    ledger.refused(NODE, 300, 1),
    ledger.refusal_voided(NODE, 300, 1),
    ledger.funded(SOURCE, 5000, "f"),
    ledger.withdrawn(SOURCE, 1000, "w"),
    PAID,
    ledger.taken_back(PAID, 9),
    ledger.redeemed(NODE, SOURCE, 400, "r2"),
]
ACCOUNT = AccountRecord(NODE, earned=250, issued=400, refused=100, redeemed=400)
CURSOR = Cursor(SOURCE, 7, b"h", balance=3600)
HELD = ContractFigures(deposit=3000, reserve=600, allocated=0, credits={NODE: 5})


def books(*entries: Entry) -> Books:
    balance = TrialBalance()
    balance.add(entries)
    return Books((ACCOUNT,), balance, CURSOR, (), {NODE: 250})


SOUND = books(*ENTRIES)


def test_entries_add_up_to_what_the_accounts_say() -> None:
    balance = SOUND.balance
    assert sum(balance.debits.values()) == sum(balance.credits.values())
    assert balance.totals(NODE) == ACCOUNT.totals == Totals(250, 400, 100, 400)
    assert ACCOUNT.totals.owed == -balance.balance(ledger.owed(NODE)) == -50
    assert ACCOUNT.totals.outstanding == -balance.balance(ledger.tickets(NODE)) == -100
    assert balance.balance(ledger.chain_account(SOURCE)) == CURSOR.balance
    assert balance.nodes() == {NODE}


def test_sound_books_have_no_difference() -> None:
    found = reconcile(SOUND, SOURCE, HELD)
    assert found.differences == ()
    assert (found.chain, found.block_number, found.nodes[0].credit) == (3600, 7, 5)
    assert found.debits == found.credits
    assert reconcile(SOUND, SOURCE, None).differences == ()
    assert reconcile(Books((), TrialBalance(), None, (), {}), SOURCE, HELD) == Reconciliation(
        (), 0, 0, 0, None, 0, HELD, ()
    )


@pytest.mark.parametrize(
    ("wrong", "difference"),
    [
        (replace(SOUND, accounts=(replace(ACCOUNT, earned=251),)), "the account of 0xa1 says"),
        (replace(SOUND, accounts=(replace(ACCOUNT, redeemed=0),)), "the account of 0xa1 says"),
        (replace(SOUND, accounts=()), "has no account"),
        (replace(SOUND, attempts={NODE: 249}), "0xa1 earned 250 wei by its account, and 249 by its attempts"),
        (replace(SOUND, attempts={NODE: 250, "0xb2": 1}), "paid work of 0xb2, which has no account"),
        (replace(SOUND, usage={NODE: 1}), "and 250 by its attempts with 1 by its on-line work"),
        (replace(SOUND, usage={"0xb2": 1}), "paid work of 0xb2, which has no account"),
        (replace(SOUND, cursor=replace(CURSOR, balance=3601)), "the entries add up to 3600"),
        (replace(SOUND, findings=(Finding(NODE, b"\1", unissued=9),)), "0x01 paid 9 wei to 0xa1"),
    ],
    ids=[
        "earned",
        "redeemed",
        "no account",
        "accepted",
        "a stranger's",
        "usage",
        "a stranger's usage",
        "cursor",
        "unissued",
    ],
)
def test_each_difference_is_said(wrong: Books, difference: str) -> None:
    assert any(difference in each for each in reconcile(wrong, SOURCE, None).differences)


def test_the_contract_may_disagree() -> None:
    (difference,) = reconcile(SOUND, SOURCE, replace(HELD, deposit=2999)).differences
    assert difference.endswith("as of block 7, the ledger says 3600: -1 wei")


def test_the_reverse_of_an_entry_undoes_it() -> None:
    balance = TrialBalance()
    balance.add([PAID, ledger.taken_back(PAID, 1)])
    assert {balance.balance(account) for account in balance.accounts()} == {0}
    assert ledger.taken_back(PAID, 1).kind is EntryKind.TAKEN_BACK
