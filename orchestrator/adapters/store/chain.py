"""The contract's events in the ledger, block after block, each once, and taken back with a block that vanishes."""

from dataclasses import replace

from sqlalchemy import Connection, delete, func, insert, select, update

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.ledger import entry_record, post, void_refusal
from orchestrator.adapters.store.queries import hold_account, save_account
from orchestrator.adapters.store.rows import AnyRow, account_record, payment_record
from orchestrator.adapters.store.schema import accounts, attempts, chain_cursors, chain_entries, entries, payments
from orchestrator.adapters.store.usage import used_of
from orchestrator.core import ledger
from orchestrator.core.ledger import Entry, EntryKind, TrialBalance
from orchestrator.core.records import Books, ChainEntry, ChainEvents, Cursor, Finding
from tandem.protocol.errors import Conflict

_BATCH = 1000


class SqlLedger:
    """The LedgerStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursor(self, source: str) -> Cursor | None:
        query = select(chain_cursors).where(chain_cursors.c.source == source)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _cursor(row)

    async def begin_at(self, cursor: Cursor) -> None:
        values = {
            "source": cursor.source,
            "block_number": cursor.block_number,
            "block_hash": cursor.block_hash,
            "balance": cursor.balance,
            "reorganisations": cursor.reorganisations,
        }
        await self._database.write(lambda connection: connection.execute(insert(chain_cursors).values(values)))

    async def record_blocks(
        self, cursor: Cursor, block_number: int, block_hash: bytes, events: ChainEvents
    ) -> list[Finding]:
        found = events.entries

        def run(connection: Connection) -> list[Finding]:
            now = self._database.now()
            for recipient in sorted(events.recipients):
                save_account(connection, replace(hold_account(connection, recipient), active_at=now))
            balance = cursor.balance + sum(_effect(event.kind, event.amount) for event in found)
            _move(
                connection, cursor, replace(cursor, block_number=block_number, block_hash=block_hash, balance=balance)
            )
            findings = [_record(connection, now, cursor, event) for event in found]
            return [finding for finding in findings if finding.unissued or finding.voided]

        return await self._database.write(run)

    async def entry_blocks(self, source: str, below: int, limit: int) -> list[tuple[int, bytes]]:
        query = (
            select(chain_entries.c.block_number, chain_entries.c.block_hash)
            .where(chain_entries.c.source == source, chain_entries.c.block_number < below)
            .distinct()
            .order_by(chain_entries.c.block_number.desc())
            .limit(limit)
        )
        return await self._database.read(
            lambda connection: [(row.block_number, row.block_hash) for row in connection.execute(query)]
        )

    async def take_back(self, cursor: Cursor, block_number: int, block_hash: bytes) -> int:
        query = (
            select(entries, chain_entries.c.recipient, chain_entries.c.unissued)
            .join(chain_entries, chain_entries.c.entry == entries.c.id)
            .where(chain_entries.c.source == cursor.source, chain_entries.c.block_number > block_number)
            .order_by(entries.c.id)
        )

        def run(connection: Connection) -> int:
            rows = connection.execute(query).all()
            reorganised = replace(
                cursor,
                block_number=block_number,
                block_hash=block_hash,
                balance=cursor.balance - sum(_effect(row.kind, row.amount) for row in rows),
                reorganisations=cursor.reorganisations + 1,
            )
            _move(connection, cursor, reorganised)
            for row in rows:
                _take_back(connection, self._database.now(), row)
            return len(rows)

        return await self._database.write(run)

    async def books(self, source: str) -> Books:
        return await self._database.read(lambda connection: read_books(connection, source))


def read_books(connection: Connection, source: str) -> Books:
    """Every entry is read, in batches."""
    balance = TrialBalance()
    found = connection.execution_options(yield_per=_BATCH).execute(select(entries))
    for rows in found.partitions():
        balance.add(map(entry_record, rows))
    cursor = connection.execute(select(chain_cursors).where(chain_cursors.c.source == source)).one_or_none()
    unissued = select(chain_entries).where(chain_entries.c.unissued != 0).order_by(chain_entries.c.entry)
    return Books(
        accounts=tuple(map(account_record, connection.execute(select(accounts).order_by(accounts.c.node)))),
        balance=balance,
        cursor=None if cursor is None else _cursor(cursor),
        findings=tuple(
            Finding(row.recipient, row.tx_hash, unissued=row.unissued) for row in connection.execute(unissued)
        ),
        attempts=_paid(connection),
        usage=used_of(connection),
    )


def _paid(connection: Connection) -> dict[str, int]:
    """Wei by node. Prices repeat, so they are counted there and added up here."""
    node, earned = attempts.c.node, attempts.c.earned
    query = select(node, earned, func.count()).where(earned != 0)
    found: dict[str, int] = {}
    for of, each, times in connection.execute(query.group_by(node, earned)):
        found[of] = found.get(of, 0) + each * times
    return found


def _record(connection: Connection, now: float, cursor: Cursor, event: ChainEntry) -> Finding:
    """Writes what one event means. That it comes once is the reference's doing; a block may come back after a fork."""
    reference = f"{cursor.reorganisations}:0x{event.block_hash.hex()}:{event.log_index}"
    entry = _entry(event, cursor.source, reference)
    unissued = voided = 0
    if event.kind is EntryKind.REDEEMED:
        unissued, voided = _match(connection, now, event)
        account = hold_account(connection, event.recipient)
        account = replace(account, redeemed=account.redeemed + event.amount, unissued=account.unissued + unissued)
        save_account(connection, account)
    values = {
        "entry": post(connection, now, entry),
        "source": cursor.source,
        "block_number": event.block_number,
        "block_hash": event.block_hash,
        "tx_hash": event.tx_hash,
        "log_index": event.log_index,
        "recipient": event.recipient,
        "params_hash": event.params_hash,
        "sender_nonces": event.sender_nonces,
        "unissued": unissued,
    }
    connection.execute(insert(chain_entries).values(values))
    return Finding(event.recipient, event.tx_hash, unissued, voided)


def _entry(event: ChainEntry, source: str, reference: str) -> Entry:
    match event.kind:
        case EntryKind.FUNDED:
            return ledger.funded(source, event.amount, reference)
        case EntryKind.WITHDRAWN:
            return ledger.withdrawn(source, event.amount, reference)
        case EntryKind.REDEEMED:
            return ledger.redeemed(event.recipient, source, event.amount, reference)
        case _:
            raise ValueError(f"expected what an event of the contract means, got {event.kind}")


def _match(connection: Connection, now: float, event: ChainEntry) -> tuple[int, int]:
    """What of a redemption was never issued, and what had been refused: its refusal is void from now on. In wei."""
    nonces = set(event.sender_nonces)
    query = (
        select(payments)
        .where(
            payments.c.params_hash == event.params_hash,
            payments.c.node == event.recipient,
            payments.c.first_nonce <= max(nonces),
            payments.c.last_nonce >= min(nonces),
        )
        .order_by(payments.c.first_nonce)
    )
    known, voided = 0, 0
    for payment in map(payment_record, connection.execute(query).all()):
        redeemed = len(nonces.intersection(payment.nonces))
        known += redeemed
        if redeemed and payment.receipt is False:
            void_refusal(connection, now, payment)
            voided += payment.value
    return event.amount * (len(nonces) - known) // len(nonces), voided


def _take_back(connection: Connection, now: float, row: AnyRow) -> None:
    connection.execute(delete(chain_entries).where(chain_entries.c.entry == row.id))
    post(connection, now, ledger.taken_back(entry_record(row), row.id))
    if row.kind is EntryKind.REDEEMED:
        account = hold_account(connection, row.recipient)
        account = replace(account, redeemed=account.redeemed - row.amount, unissued=account.unissued - row.unissued)
        save_account(connection, account)


def _move(connection: Connection, old: Cursor, new: Cursor) -> None:
    """Raises Conflict if the stored cursor is not `old`: another watcher is at work on the same store."""
    statement = (
        update(chain_cursors)
        .where(
            chain_cursors.c.source == old.source,
            chain_cursors.c.block_number == old.block_number,
            chain_cursors.c.block_hash == old.block_hash,
            chain_cursors.c.reorganisations == old.reorganisations,
        )
        .values(
            block_number=new.block_number,
            block_hash=new.block_hash,
            balance=new.balance,
            reorganisations=new.reorganisations,
        )
    )
    if connection.execute(statement).rowcount != 1:
        raise Conflict(f"expected the ledger to stand at block {old.block_number}: one process watches a store's chain")


def _effect(kind: EntryKind, amount: int) -> int:
    """On what the contract holds for the sender, in wei."""
    return amount if kind is EntryKind.FUNDED else -amount


def _cursor(row: AnyRow) -> Cursor:
    return Cursor(row.source, row.block_number, row.block_hash, row.balance, row.reorganisations)
