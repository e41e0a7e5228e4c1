"""What is owed to nodes, and the tickets signed for it."""

from dataclasses import replace

from sqlalchemy import Connection, select

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.ledger import answer, issue
from orchestrator.adapters.store.queries import hold_account, load_account, save_account
from orchestrator.adapters.store.rows import account_record, payment_record
from orchestrator.adapters.store.schema import accounts, payments
from orchestrator.core.records import AccountRecord, Failure, PaymentRecord, Standing
from orchestrator.ports.store import AccountDecision


class SqlAccounts:
    """The AccountStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account(self, node: str) -> AccountRecord:
        return await self._database.read(lambda connection: load_account(connection, node))

    async def accounts(self) -> list[AccountRecord]:
        query = select(accounts).order_by(accounts.c.node)
        return await self._database.read(lambda connection: [account_record(row) for row in connection.execute(query)])

    async def decide_account(self, node: str, decision: AccountDecision) -> PaymentRecord | None:
        def run(connection: Connection) -> PaymentRecord | None:
            account, now = hold_account(connection, node), self._database.now()
            changes = decision(account, now)
            if changes.params is not None:
                account = replace(account, params=changes.params)
                save_account(connection, account)
            return None if changes.payment is None else issue(connection, now, account, changes.payment)

        return await self._database.write(run)

    async def open_payments(self, node: str) -> list[PaymentRecord]:
        return await self._payments(node, only_open=True)

    async def payments_of(self, node: str) -> list[PaymentRecord]:
        return await self._payments(node, only_open=False)

    async def standing(self, node: str) -> Standing:
        return await self._database.write(lambda connection: _standing(connection, node))

    async def record_receipt(self, node: str, payment: int, failure: Failure | None) -> Standing:
        query = (
            select(payments)
            .where(payments.c.id == payment, payments.c.node == node, payments.c.receipt.is_(None))
            .with_for_update()
        )

        def run(connection: Connection) -> Standing:
            row = connection.execute(query).one_or_none()
            if row is not None:
                answer(connection, self._database.now(), payment_record(row), failure)
            return _standing(connection, node)

        return await self._database.write(run)

    async def _payments(self, node: str, *, only_open: bool) -> list[PaymentRecord]:
        query = select(payments).where(payments.c.node == node).order_by(payments.c.id)
        if only_open:
            query = query.where(payments.c.receipt.is_(None))
        return await self._database.read(lambda connection: [payment_record(row) for row in connection.execute(query)])


def _standing(connection: Connection, node: str) -> Standing:
    query = select(payments.c.params, payments.c.first_nonce, payments.c.last_nonce).where(
        payments.c.node == node, payments.c.receipt.is_(None)
    )
    values = [(row.last_nonce - row.first_nonce + 1) * row.params.expected_value() for row in connection.execute(query)]
    return Standing(load_account(connection, node), len(values), sum(values))
