"""Transactions of the funding key that are in flight, and what was spent."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.schema import spendings, transactions
from tandem.chain.transactions import SignedTransaction, TransactionJournal

_KEPT_SECONDS = 7 * 86_400.0


class SqlFunding:
    """The FundingStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def journal(self, account: str) -> TransactionJournal:
        return _Journal(self._database, account)

    async def spend(self, amount: int) -> int:
        def run(connection: Connection) -> int:
            now = self._database.now()
            connection.execute(delete(spendings).where(spendings.c.at < now - _KEPT_SECONDS))
            statement = insert(spendings).values(at=now, amount=amount).returning(spendings.c.id)
            return int(connection.execute(statement).scalar_one())

        return await self._database.write(run)

    async def unspend(self, spending: int) -> None:
        statement = delete(spendings).where(spendings.c.id == spending)
        await self._database.write(lambda connection: connection.execute(statement))

    async def spent_since(self, time: float) -> int:
        query = select(spendings.c.amount).where(spendings.c.at > time)
        return await self._database.read(lambda connection: sum(connection.scalars(query)))


class _Journal:
    """A TransactionJournal. `account` names the chain as well."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    async def record(self, transaction: SignedTransaction) -> None:
        values = {
            "tx_hash": transaction.tx_hash,
            "account": self._account,
            "tx_nonce": transaction.tx_nonce,
            "raw": transaction.raw,
            "purpose": transaction.purpose,
            "signed_at": transaction.signed_at,
        }
        await self._database.write(lambda connection: connection.execute(insert(transactions).values(values)))

    async def pending(self) -> Sequence[SignedTransaction]:
        query = select(transactions).where(transactions.c.account == self._account).order_by(transactions.c.tx_nonce)
        return await self._database.read(
            lambda connection: [
                SignedTransaction(row.tx_hash, row.tx_nonce, row.raw, row.purpose, row.signed_at)
                for row in connection.execute(query)
            ]
        )

    async def forget(self, tx_nonce: int) -> None:
        statement = delete(transactions).where(
            transactions.c.account == self._account, transactions.c.tx_nonce == tx_nonce
        )
        await self._database.write(lambda connection: connection.execute(statement))
