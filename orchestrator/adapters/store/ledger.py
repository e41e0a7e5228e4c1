"""The ledger's entries and the running totals that go with them: nothing else writes either.

Every function runs inside a transaction of the store, which also holds what the entries record.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert, select, update

from orchestrator.adapters.store.queries import add_earned, hold_account, save_account
from orchestrator.adapters.store.rows import AnyRow, payment_values
from orchestrator.adapters.store.schema import chain_entries, entries, payments
from orchestrator.core import ledger
from orchestrator.core.ledger import Entry
from orchestrator.core.records import AccountRecord, AttemptRecord, Failure, PaymentRecord, UsageWindowRecord

_INSERT = insert(entries)
_INSERT_ONE = insert(entries).returning(entries.c.id)
_INSERT_PAYMENT = insert(payments).returning(payments.c.id)


def earn(connection: Connection, now: float, attempts: Sequence[AttemptRecord]) -> None:
    """What attempts earned at their end is owed to their nodes."""
    paid = [attempt for attempt in attempts if attempt.earned]
    if not paid:
        return
    rows = [entry_values(now, ledger.earned(attempt.node, attempt.earned, str(attempt.ref))) for attempt in paid]
    connection.execute(_INSERT, rows)
    for node in sorted({attempt.node for attempt in paid}):
        add_earned(connection, node, sum(attempt.earned for attempt in paid if attempt.node == node), now)


def use(connection: Connection, now: float, window: UsageWindowRecord) -> None:
    """A window of on-line work is owed to its node."""
    if window.price:
        connection.execute(_INSERT, entry_values(now, ledger.used(window.node, window.price, window.id)))
        add_earned(connection, window.node, window.price, now)


def issue(connection: Connection, now: float, account: AccountRecord, payment: PaymentRecord) -> PaymentRecord:
    """Tickets are signed. Raises ValueError unless their nonces are the account's next ones."""
    nonces = [ticket.sender_nonce for ticket in payment.tickets]
    if payment.nonces.start != account.next_nonce or nonces != list(payment.nonces):
        raise ValueError(f"expected tickets from nonce {account.next_nonce} on, got {nonces}")
    # First, since the payment refers to the account.
    save_account(connection, replace(account, issued=account.issued + payment.value, next_nonce=payment.nonces.stop))
    payment_id = connection.execute(_INSERT_PAYMENT, payment_values(payment)).scalar_one()
    post(connection, now, ledger.issued(account.node, payment.value, payment_id))
    return replace(payment, id=payment_id)


def answer(connection: Connection, now: float, payment: PaymentRecord, failure: Failure | None) -> None:
    """The receipt of a payment. Who refuses tickets that it has already redeemed is taken to have received them."""
    if failure is not None and _any_redeemed(connection, payment):
        failure = None
    closed = {"receipt": failure is None, "failure": failure, "tickets": ()}
    connection.execute(update(payments).where(payments.c.id == payment.id).values(closed))
    if failure is not None:
        account = hold_account(connection, payment.node)
        save_account(connection, replace(account, refused=account.refused + payment.value))
        post(connection, now, ledger.refused(payment.node, payment.value, payment.id))


def void_refusal(connection: Connection, now: float, payment: PaymentRecord) -> None:
    """A refused payment has paid all the same: it counts as received, and what made it good is due back."""
    connection.execute(update(payments).where(payments.c.id == payment.id).values(receipt=True, failure=None))
    account = hold_account(connection, payment.node)
    save_account(connection, replace(account, refused=account.refused - payment.value))
    post(connection, now, ledger.refusal_voided(payment.node, payment.value, payment.id))


def post(connection: Connection, now: float, entry: Entry) -> int:
    """Writes one entry and returns its number."""
    return int(connection.execute(_INSERT_ONE, entry_values(now, entry)).scalar_one())


def entry_values(now: float, entry: Entry) -> dict[str, object]:
    return {
        "at": now,
        "kind": entry.kind,
        "debit": entry.debit,
        "credit": entry.credit,
        "amount": entry.amount,
        "reference": entry.reference,
    }


def entry_record(row: AnyRow) -> Entry:
    return Entry(row.kind, row.debit, row.credit, row.amount, row.reference)


def _any_redeemed(connection: Connection, payment: PaymentRecord) -> bool:
    found = connection.scalars(
        select(chain_entries.c.sender_nonces).where(chain_entries.c.params_hash == payment.params.hash())
    )
    return any(nonce in payment.nonces for nonces in found for nonce in nonces)
