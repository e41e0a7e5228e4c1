"""What is owed to nodes, and the tickets signed for it."""

from dataclasses import replace

from sqlalchemy import Connection, insert, select, update

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.queries import load_account, save_account
from orchestrator.adapters.store.rows import account_record, payment_record, payment_values
from orchestrator.adapters.store.schema import accounts, payments
from orchestrator.core.records import AccountRecord, Failure, PaymentRecord
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
            changes = decision(load_account(connection, node), self._database.now())
            if changes.account is not None:
                save_account(connection, changes.account)
            if changes.payment is None:
                return None
            created = connection.execute(
                insert(payments).values(payment_values(changes.payment)).returning(payments.c.id)
            )
            return replace(changes.payment, id=created.scalar_one())

        return await self._database.write(run)

    async def open_payments(self, node: str) -> list[PaymentRecord]:
        return await self._payments(node, only_open=True)

    async def payments_of(self, node: str) -> list[PaymentRecord]:
        return await self._payments(node, only_open=False)

    async def record_receipt(self, node: str, payment: int, failure: Failure | None) -> None:
        statement = (
            update(payments)
            .where(payments.c.id == payment, payments.c.node == node, payments.c.receipt.is_(None))
            .values(receipt=failure is None, failure=failure)
            .returning(payments)
        )

        def run(connection: Connection) -> None:
            row = connection.execute(statement).one_or_none()
            if row is not None and failure is not None:
                account = load_account(connection, node)
                save_account(connection, replace(account, refused=account.refused + payment_record(row).value))

        await self._database.write(run)

    async def _payments(self, node: str, *, only_open: bool) -> list[PaymentRecord]:
        query = select(payments).where(payments.c.node == node).order_by(payments.c.id)
        if only_open:
            query = query.where(payments.c.receipt.is_(None))
        return await self._database.read(lambda connection: [payment_record(row) for row in connection.execute(query)])
