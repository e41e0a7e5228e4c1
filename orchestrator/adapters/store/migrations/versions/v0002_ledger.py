"""Ledger of double entries"""

import json

import sqlalchemy as sa
from alembic import op

from tandem.protocol.tickets import TicketParams

revision = "0002"
down_revision = "0001"

_KINDS = ("earned", "issued", "refused", "refusal_voided", "redeemed", "funded", "withdrawn", "taken_back")


def upgrade() -> None:
    _entries()
    _chain_cursors()
    _chain_entries()
    _transactions()
    _spendings()
    _accounts()
    _payments()
    _open_the_books()


def _entries() -> None:
    kind = sa.Enum(*_KINDS, name=op.f("ck_entries_kind"), native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", kind, nullable=False),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False, comment="what it records; see orchestrator/core/ledger.py"),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_entries_two_accounts")),
        sa.CheckConstraint("amount NOT LIKE '-%' AND amount <> '0'", name=op.f("ck_entries_amount_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        sa.UniqueConstraint("kind", "reference", name=op.f("uq_entries_kind_reference")),
        sqlite_autoincrement=True,
    )


def _chain_cursors() -> None:
    op.create_table(
        "chain_cursors",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.LargeBinary(), nullable=False),
        sa.Column("balance", sa.Text(), nullable=False),
        sa.Column("reorganisations", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_chain_cursors")),
    )


def _chain_entries() -> None:
    op.create_table(
        "chain_entries",
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.LargeBinary(), nullable=False),
        sa.Column("tx_hash", sa.LargeBinary(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("params_hash", sa.LargeBinary(), nullable=False),
        sa.Column("sender_nonces", sa.Text(), nullable=False),
        sa.Column(
            "unissued", sa.Text(), nullable=False, comment="what of the amount paid for tickets never issued here"
        ),
        sa.ForeignKeyConstraint(["entry"], ["entries.id"], name=op.f("fk_chain_entries_entry")),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_chain_entries")),
        comment="entries that the contract's events wrote and that stand: a block that vanishes takes its rows along",
    )
    op.create_index(op.f("ix_chain_entries_params_hash"), "chain_entries", ["params_hash"])
    op.create_index(op.f("ix_chain_entries_source_block_number"), "chain_entries", ["source", "block_number"])


def _transactions() -> None:
    op.create_table(
        "transactions",
        sa.Column("tx_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("tx_nonce", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tx_hash", name=op.f("pk_transactions")),
    )
    op.create_index(op.f("ix_transactions_account_tx_nonce"), "transactions", ["account", "tx_nonce"])


def _spendings() -> None:
    op.create_table(
        "spendings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spendings")),
    )
    op.create_index(op.f("ix_spendings_at"), "spendings", ["at"])


def _accounts() -> None:
    op.add_column("accounts", sa.Column("redeemed", sa.Text(), nullable=False, server_default="0"))
    op.add_column("accounts", sa.Column("unissued", sa.Text(), nullable=False, server_default="0"))
    op.add_column("accounts", sa.Column("active_at", sa.Double()))


def _payments() -> None:
    """What finds the payment that a redeemed ticket belongs to."""
    op.add_column("payments", sa.Column("params_hash", sa.LargeBinary()))
    op.add_column("payments", sa.Column("first_nonce", sa.BigInteger()))
    op.add_column("payments", sa.Column("last_nonce", sa.BigInteger()))
    _fill_payments(op.get_bind())
    # SQLite has to copy the table for this; elsewhere these are plain ALTERs.
    with op.batch_alter_table("payments", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("params_hash", nullable=False, existing_type=sa.LargeBinary())
        batch.alter_column("first_nonce", nullable=False, existing_type=sa.BigInteger())
        batch.alter_column("last_nonce", nullable=False, existing_type=sa.BigInteger())
        batch.create_check_constraint(op.f("ck_payments_nonces_in_order"), "first_nonce <= last_nonce")
        batch.create_unique_constraint(
            op.f("uq_payments_node_params_hash_first_nonce"), ["node", "params_hash", "first_nonce"]
        )


def _fill_payments(connection: sa.Connection) -> None:
    payments = _table("payments", "id", "params", "tickets", "params_hash", "first_nonce", "last_nonce")
    for row in connection.execute(sa.select(payments.c.id, payments.c.params, payments.c.tickets)).all():
        nonces = [ticket["sender_nonce"] for ticket in json.loads(row.tickets)]
        values = {
            "params_hash": TicketParams.model_validate_json(row.params).hash(),
            "first_nonce": min(nonces),
            "last_nonce": max(nonces),
        }
        connection.execute(sa.update(payments).where(payments.c.id == row.id).values(values))


def _open_the_books() -> None:
    """The accounts of the first schema become the ledger's first entries, at time zero."""
    connection = op.get_bind()
    accounts = _table("accounts", "node", "earned", "issued", "refused")
    entries = _table("entries", "at", "kind", "debit", "credit", "amount", "reference")
    rows = [
        {
            "at": 0.0,
            "kind": kind,
            "debit": debit,
            "credit": credit,
            "amount": amount,
            "reference": f"opening:{row.node}",
        }
        for row in connection.execute(sa.select(accounts).order_by(accounts.c.node)).all()
        for kind, debit, credit, amount in (
            ("earned", "work", f"owed:{row.node}", row.earned),
            ("issued", f"owed:{row.node}", f"tickets:{row.node}", row.issued),
            ("refused", f"tickets:{row.node}", f"owed:{row.node}", row.refused),
        )
        if amount != "0"
    ]
    if rows:
        connection.execute(sa.insert(entries), rows)


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))
