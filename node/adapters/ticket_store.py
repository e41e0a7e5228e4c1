"""The ticket store on SQLite: what a node must not lose, and must not take twice, across `kill -9`.

One connection in one thread: each call is one function there, and each that writes is one transaction. Amounts are
decimal text, since SQLite's integers end at 2**63.
"""

import asyncio
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from node.core.acceptance import AcceptedPayment
from node.core.exposure import Balance
from node.core.redemption import WinningSet
from node.core.terms import Epochs
from node.ports.tickets import TicketTotals
from tandem.chain.events import Refusal
from tandem.chain.redemption import RedemptionResult
from tandem.chain.transactions import SignedTransaction
from tandem.protocol.errors import ConfigurationError, TicketReplayed, TicketRevealed
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import PaymentReceipt
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain, Ticket, TicketParams

_VERSION = 2
_BUSY_MS = 10_000
_SCHEMA = """
CREATE TABLE node (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    recipient TEXT NOT NULL, chain_id TEXT NOT NULL, contract TEXT NOT NULL,
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    epoch INTEGER NOT NULL, closed_epoch INTEGER NOT NULL CHECK (closed_epoch < epoch)
) STRICT;
CREATE TABLE accounts (sender TEXT PRIMARY KEY, earned TEXT NOT NULL, received TEXT NOT NULL) STRICT;
CREATE TABLE earnings (attempt TEXT PRIMARY KEY, sender TEXT NOT NULL, price TEXT NOT NULL) STRICT;
CREATE TABLE params (
    hash BLOB PRIMARY KEY, sender TEXT NOT NULL, epoch INTEGER NOT NULL,
    face_value TEXT NOT NULL, win_prob TEXT NOT NULL, expiry INTEGER NOT NULL, commitment BLOB NOT NULL
) STRICT;
CREATE TABLE tickets (
    params BLOB NOT NULL REFERENCES params ON DELETE CASCADE, sender_nonce INTEGER NOT NULL,
    signature BLOB NOT NULL, state TEXT NOT NULL CHECK (state IN ('lost', 'won', 'redeemed', 'refused')),
    reason TEXT, PRIMARY KEY (params, sender_nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_won ON tickets (state) WHERE state <> 'lost';
CREATE TABLE receipts (
    sender TEXT NOT NULL, payment INTEGER NOT NULL, digest BLOB NOT NULL, receipt TEXT NOT NULL,
    PRIMARY KEY (sender, payment)
) STRICT, WITHOUT ROWID;
CREATE TABLE transactions (
    tx_hash BLOB PRIMARY KEY, tx_nonce INTEGER NOT NULL, raw BLOB NOT NULL, purpose TEXT NOT NULL,
    signed_at REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE redemptions (
    tx_hash BLOB PRIMARY KEY, amount TEXT NOT NULL, gas_cost TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE counts (id INTEGER PRIMARY KEY CHECK (id = 1), tickets INTEGER NOT NULL, winners INTEGER NOT NULL) STRICT;
"""

_PASSING = frozenset({Refusal.UNFUNDED})
"""The contract's reasons that time may cure: the winner stays redeemable."""

P = ParamSpec("P")
T = TypeVar("T")


class SqliteTicketStore:
    """TicketStore and TransactionJournal over one file, for one recipient on one contract."""

    def __init__(self, path: Path, recipient: Address, domain: Domain) -> None:
        self._path = path
        self._recipient = recipient
        self._domain = domain
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ticket-store")

    async def __aenter__(self) -> Self:
        """Opens or creates the file; raises ConfigurationError if it belongs to another key, chain or contract."""
        try:
            self.secret = await self._run(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In the store's own thread, behind whatever a cancelled caller has left there.
        self._thread.submit(self._db.close)
        await asyncio.to_thread(self._thread.shutdown)

    # --- epochs

    async def epochs(self) -> Epochs:
        return await self._run(self._epochs)

    async def rotate(self) -> Epochs:
        return await self._run(self._update_epochs, "epoch = epoch + 1")

    async def close_epochs(self, through: int) -> Epochs:
        return await self._run(self._update_epochs, "closed_epoch = max(closed_epoch, ?)", through)

    # --- balances

    async def balance(self, sender: Address) -> Balance:
        return await self._run(self._balance, sender)

    async def earn(self, sender: Address, ref: AttemptRef, price: int) -> Balance:
        return await self._run(self._earn, sender, str(ref), price)

    # --- payments

    async def receipt(self, sender: Address, payment_id: int, digest: bytes) -> PaymentReceipt | None:
        return await self._run(self._receipt, sender, payment_id, digest)

    async def seen(self, params_hash: bytes, sender_nonces: Sequence[int]) -> set[int]:
        return await self._run(self._seen, params_hash, sender_nonces)

    async def outstanding(self, sender: Address, now: float) -> int:
        sets = await self._run(self._winners, now)
        return sum(winning.value for winning in sets if winning.params.sender == sender)

    async def take(self, accepted: AcceptedPayment, digest: bytes) -> Balance:
        return await self._run(self._take, accepted, digest)

    async def refuse(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        await self._run(self._refuse, sender, receipt, digest)

    # --- redemption

    async def winners(self, now: float) -> tuple[WinningSet, ...]:
        return await self._run(self._winners, now)

    async def settle(self, result: RedemptionResult, now: float) -> None:
        await self._run(self._settle, result, now)

    async def prune(self, now: float) -> None:
        await self._run(self._prune, now)

    async def totals(self, now: float) -> TicketTotals:
        return await self._run(self._totals, now)

    # --- the journal of transactions

    async def record(self, transaction: SignedTransaction) -> None:
        await self._run(self._record, transaction)

    async def pending(self) -> Sequence[SignedTransaction]:
        return await self._run(self._pending)

    async def forget(self, tx_nonce: int) -> None:
        await self._run(self._forget, tx_nonce)

    # --- in the thread

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A cancelled caller leaves the function running to its end: there are no half transactions."""
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _open(self) -> bytes:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the secret
        self._db = sqlite3.connect(self._path, isolation_level=None)
        try:
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                f"busy_timeout = {_BUSY_MS}",
            ):
                self._db.execute(f"PRAGMA {pragma}").close()
            return self._create_or_check()
        except BaseException:
            self._db.close()
            raise

    def _create_or_check(self) -> bytes:
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._create(db)
            elif version == 1:
                db.execute("ALTER TABLE transactions ADD COLUMN signed_at REAL NOT NULL DEFAULT 0")
                db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise ConfigurationError(
                    f"expected a ticket store of version {_VERSION} at {self._path}, found {version}; "
                    "use the release that wrote it"
                )
            row = db.execute("SELECT recipient, chain_id, contract, secret FROM node").fetchone()
        expected = self._identity()
        if row[:3] != expected:
            raise ConfigurationError(
                f"expected the ticket store {self._path} to belong to {expected}, it belongs to {row[:3]}; "
                "give each key, chain and contract a state folder of its own"
            )
        return bytes(row[3])

    def _create(self, db: sqlite3.Connection) -> None:
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute("INSERT INTO node VALUES (1, ?, ?, ?, ?, 1, 0)", (*self._identity(), secrets.token_bytes(32)))
        db.execute("INSERT INTO counts VALUES (1, 0, 0)")
        db.execute(f"PRAGMA user_version = {_VERSION}")

    def _identity(self) -> tuple[str, str, str]:
        return self._recipient, str(self._domain.chain_id), self._domain.contract

    def _epochs(self) -> Epochs:
        return Epochs(*self._db.execute("SELECT epoch, closed_epoch FROM node").fetchone())

    def _update_epochs(self, change: str, *values: int) -> Epochs:
        with self._transaction() as db:
            db.execute(f"UPDATE node SET {change}", values)  # noqa: S608 - one of two constants above
        return self._epochs()

    def _balance(self, sender: Address) -> Balance:
        row = self._db.execute("SELECT earned, received FROM accounts WHERE sender = ?", (sender,)).fetchone()
        return Balance(int(row[0]), int(row[1])) if row else Balance()

    def _write_balance(self, sender: Address, balance: Balance) -> None:
        values = (sender, str(balance.earned), str(balance.received))
        self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", values)

    def _earn(self, sender: Address, attempt: str, price: int) -> Balance:
        with self._transaction() as db:
            values = (attempt, sender, str(price))
            new = db.execute("INSERT OR IGNORE INTO earnings VALUES (?, ?, ?)", values).rowcount
            if new:
                self._write_balance(sender, self._balance(sender).earn(price))
        return self._balance(sender)

    def _receipt(self, sender: Address, payment_id: int, digest: bytes) -> PaymentReceipt | None:
        query = "SELECT receipt FROM receipts WHERE (sender, payment, digest) = (?, ?, ?)"
        row = self._db.execute(query, (sender, payment_id, digest)).fetchone()
        return PaymentReceipt.model_validate_json(row[0]) if row else None

    def _seen(self, params_hash: bytes, nonces: Sequence[int]) -> set[int]:
        marks = ", ".join("?" * len(nonces))
        query = f"SELECT sender_nonce FROM tickets WHERE params = ? AND sender_nonce IN ({marks})"  # noqa: S608
        return {nonce for (nonce,) in self._db.execute(query, (params_hash, *nonces))}

    def _take(self, accepted: AcceptedPayment, digest: bytes) -> Balance:
        checked = accepted.checked
        sender = checked.params.sender
        with self._transaction() as db:
            # Checked again here, where nothing can come in between: both would be a loss of money.
            if checked.epoch <= self._epochs().closed:
                raise TicketRevealed(f"expected tickets of an epoch after {checked.epoch}, which was closed meanwhile")
            self._write_params(checked.params, checked.epoch)
            self._write_tickets(checked.params.hash(), checked.tickets, checked.winners)
            db.execute("UPDATE counts SET tickets = tickets + ?, winners = winners + ?", _counts(accepted))
            balance = self._balance(sender).receive(checked.value)
            self._write_balance(sender, balance)
            self._write_receipt(sender, PaymentReceipt(id=checked.id, accepted=True), digest)
        return balance

    def _write_params(self, params: TicketParams, epoch: int) -> None:
        numbers = (str(params.face_value), str(params.win_prob), params.expiry)
        values = (params.hash(), params.sender, epoch, *numbers, params.commitment)
        self._db.execute("INSERT OR IGNORE INTO params VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _write_tickets(self, params_hash: bytes, tickets: Sequence[Ticket], winners: frozenset[int]) -> None:
        rows = [
            (params_hash, ticket.sender_nonce, ticket.signature, "won" if ticket.sender_nonce in winners else "lost")
            for ticket in tickets
        ]
        try:
            self._db.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?, NULL)", rows)
        except sqlite3.IntegrityError as error:
            raise TicketReplayed("expected sender nonces that were not seen before; number each ticket anew") from error

    def _refuse(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        with self._transaction():
            self._write_receipt(sender, receipt, digest)

    def _write_receipt(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        values = (sender, receipt.id, digest, receipt.model_dump_json())
        self._db.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?)", values)

    def _winners(self, now: float) -> tuple[WinningSet, ...]:
        query = """
            SELECT hash, sender, epoch, face_value, win_prob, expiry, commitment, sender_nonce, signature
            FROM tickets JOIN params ON params.hash = tickets.params
            WHERE state = 'won' AND expiry > ? ORDER BY hash, sender_nonce
        """
        sets: dict[bytes, tuple[TicketParams, int, list[Ticket]]] = {}
        for params_hash, sender, epoch, *fields, sender_nonce, signature in self._db.execute(query, (now,)):
            if params_hash not in sets:
                sets[params_hash] = (self._params(sender, fields), epoch, [])
            params, _, tickets = sets[params_hash]
            tickets.append(Ticket(params=params, sender_nonce=sender_nonce, signature=signature))
        return tuple(WinningSet(params, epoch, tuple(tickets)) for params, epoch, tickets in sets.values())

    def _params(self, sender: Address, fields: Sequence[Any]) -> TicketParams:
        face_value, win_prob, expiry, commitment = fields
        return TicketParams(
            sender=sender,
            recipient=self._recipient,
            face_value=int(face_value),
            win_prob=int(win_prob),
            expiry=expiry,
            commitment=commitment,
        )

    def _settle(self, result: RedemptionResult, now: float) -> None:
        with self._transaction() as db:
            for paid in result.paid:
                for nonce in paid.sender_nonces:
                    self._mark("redeemed", None, paid.params_hash, nonce)
            for refused in result.not_paid:
                if refused.reason is Refusal.ALREADY_REDEEMED:
                    self._mark("redeemed", None, refused.params_hash, refused.sender_nonce)
                elif refused.reason not in _PASSING:
                    self._mark("refused", refused.reason.name.lower(), refused.params_hash, refused.sender_nonce)
            values = (result.tx_hash, str(result.amount_wei), str(result.gas_cost_wei), now)
            db.execute("INSERT OR IGNORE INTO redemptions VALUES (?, ?, ?, ?)", values)
            own = "SELECT tx_nonce FROM transactions WHERE tx_hash = ?"
            db.execute(f"DELETE FROM transactions WHERE tx_nonce IN ({own})", (result.tx_hash,))  # noqa: S608

    def _mark(self, state: str, reason: str | None, params_hash: bytes, sender_nonce: int | None) -> None:
        query = (
            "UPDATE tickets SET state = ?, reason = ? WHERE params = ? AND state = 'won' "
            "AND (? IS NULL OR sender_nonce = ?)"
        )
        self._db.execute(query, (state, reason, params_hash, sender_nonce, sender_nonce))

    def _prune(self, now: float) -> None:
        with self._transaction() as db:
            # A ticket under terms that have expired is refused for that; its nonce need not be remembered.
            expired = "SELECT hash FROM params WHERE expiry <= ?"
            db.execute(f"DELETE FROM tickets WHERE state = 'lost' AND params IN ({expired})", (now,))  # noqa: S608
            db.execute("DELETE FROM params WHERE expiry <= ? AND hash NOT IN (SELECT params FROM tickets)", (now,))

    def _totals(self, now: float) -> TicketTotals:
        db = self._db
        balances = [(int(earned), int(got)) for earned, got in db.execute("SELECT earned, received FROM accounts")]
        redemptions = [
            (int(amount), int(gas)) for amount, gas in db.execute("SELECT amount, gas_cost FROM redemptions")
        ]
        tickets, winners = db.execute("SELECT tickets, winners FROM counts").fetchone()
        (attempts,) = db.execute("SELECT count(*) FROM earnings").fetchone()
        return TicketTotals(
            attempts=attempts,
            earned=sum(earned for earned, _ in balances),
            received=sum(received for _, received in balances),
            tickets=tickets,
            winners=winners,
            outstanding=sum(winning.value for winning in self._winners(now)),
            redeemed=sum(amount for amount, _ in redemptions),
            gas_spent=sum(gas for _, gas in redemptions),
            refused=Counter(reason for (reason,) in db.execute("SELECT reason FROM tickets WHERE state = 'refused'")),
        )

    def _record(self, transaction: SignedTransaction) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO transactions VALUES (?, ?, ?, ?, ?)", astuple(transaction))

    def _pending(self) -> tuple[SignedTransaction, ...]:
        rows = self._db.execute("SELECT tx_hash, tx_nonce, raw, purpose, signed_at FROM transactions ORDER BY tx_nonce")
        return tuple(SignedTransaction(*row) for row in rows)

    def _forget(self, tx_nonce: int) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM transactions WHERE tx_nonce = ?", (tx_nonce,))


def _counts(accepted: AcceptedPayment) -> tuple[int, int]:
    return len(accepted.checked.tickets), len(accepted.checked.winners)
