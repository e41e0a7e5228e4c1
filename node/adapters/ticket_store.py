"""The ticket store on SQLite: what a node must not lose, and must not take twice, across `kill -9`.

One connection in one thread: each call is one function there, and each that writes is one transaction. Amounts are
decimal text, since SQLite's integers end at 2**63.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from node.adapters.ticket_pruning import UNREDEEMED, given_up, prune
from node.adapters.ticket_schema import open_file, ticket_params, transaction
from node.core.acceptance import AcceptedPayment
from node.core.exposure import Balance
from node.core.gas import GasPrice
from node.core.redemption import WinningSet
from node.core.standing import Note
from node.core.terms import Epochs
from node.ports.contract import Paid, RedemptionOutcome
from node.ports.tickets import TicketTotals
from tandem.chain.events import Refusal
from tandem.chain.redemption import RedemptionResult, Refused
from tandem.chain.transactions import SignedTransaction
from tandem.protocol.errors import TicketExpired, TicketReplayed, TicketRevealed
from tandem.protocol.ids import AttemptRef
from tandem.protocol.messages import PaymentReceipt
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain, Ticket, TicketParams

_AT_ONCE = 10_000
"""Tickets that are forgotten in one step: payments come in between."""
_REMEMBERED = 100_000
"""Answers to payments, verdicts and windows of usage that are known again. What is said again was among the last few
to be said: an orchestrator has two payments open at a time, and a node so many attempts as it has room for."""
_FORGOTTEN = 100
"""Of each, as one is added."""
_MEASURED = 20
"""So many redemptions are looked at for what one winner costs."""

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
        self._redeemed: list[tuple[bytes, int]] = []
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

    async def book(self, sender: Address, window: str, requests: int, price: int) -> Balance | None:
        return await self._run(self._book, sender, window, requests, price)

    async def lose(self, sender: Address, requests: int, price: int) -> Balance:
        return await self._run(self._lose, sender, requests, price)

    # --- payments

    async def receipt(self, sender: Address, payment_id: int, digest: bytes) -> PaymentReceipt | None:
        return await self._run(self._receipt, sender, payment_id, digest)

    async def seen(self, params_hash: bytes, sender_nonces: Sequence[int]) -> set[int]:
        return await self._run(self._seen, params_hash, sender_nonces)

    async def outstanding(self, sender: Address, now: float) -> int:
        return await self._run(self._outstanding, sender, now)

    async def take(self, accepted: AcceptedPayment, digest: bytes) -> Balance:
        return await self._run(self._take, accepted, digest)

    async def refuse(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        await self._run(self._refuse, sender, receipt, digest)

    # --- redemption

    async def winners(self, now: float) -> tuple[WinningSet, ...]:
        return await self._run(self._winners, now)

    async def in_flight(self) -> Mapping[Address, int]:
        return await self._run(self._in_flight)

    async def settle(self, outcome: RedemptionOutcome, now: float) -> None:
        await self._run(self._settle, outcome, now)

    async def paid_since(self, at: float) -> tuple[Paid, ...]:
        return await self._run(self._paid_since, at)

    async def take_back(self, paid: Paid) -> None:
        await self._run(self._take_back, paid)

    async def prune(self, now: float) -> None:
        while await self._run(self._prune, now) == _AT_ONCE:
            pass

    async def totals(self, now: float) -> TicketTotals:
        return await self._run(self._totals, now)

    # --- how things stand

    async def gas_price(self) -> GasPrice | None:
        return await self._run(self._gas_price)

    async def keep_gas_price(self, price: GasPrice) -> None:
        await self._run(self._keep_gas_price, price)

    async def gas_per_winner(self) -> int | None:
        return await self._run(self._gas_per_winner)

    async def note(self, topic: str, text: str, at: float) -> None:
        await self._run(self._note, topic, text, at)

    async def notes(self) -> tuple[Note, ...]:
        return await self._run(self._notes)

    # --- the journal of transactions

    @contextmanager
    def redeeming(self, sets: Sequence[WinningSet]) -> Iterator[None]:
        """The transaction that is recorded within this is the one that redeems these winners."""
        self._redeemed = [(won.params.hash(), ticket.sender_nonce) for won in sets for ticket in won.tickets]
        try:
            yield
        finally:
            self._redeemed = []

    async def record(self, transaction: SignedTransaction) -> None:
        await self._run(self._record, transaction, self._redeemed)

    async def pending(self) -> Sequence[SignedTransaction]:
        return await self._run(self._pending)

    async def forget(self, tx_nonce: int) -> None:
        await self._run(self._forget, tx_nonce)

    # --- in the thread

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A cancelled caller leaves the function running to its end: there are no half transactions."""
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def _open(self) -> bytes:
        self._db, secret = open_file(self._path, self._recipient, self._domain)
        return secret

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._db)

    def _epochs(self) -> Epochs:
        return Epochs(*self._db.execute("SELECT epoch, closed_epoch FROM node").fetchone())

    def _update_epochs(self, change: str, *values: int) -> Epochs:
        with self._transaction() as db:
            db.execute(f"UPDATE node SET {change}", values)  # noqa: S608 - one of two constants above
        return self._epochs()

    def _balance(self, sender: Address) -> Balance:
        row = self._db.execute("SELECT earned, received FROM accounts WHERE sender = ?", (sender,)).fetchone()
        earned, received = row or ("0", "0")
        row = self._db.execute("SELECT lost FROM usage WHERE sender = ?", (sender,)).fetchone()
        return Balance(int(earned), int(received), int(row[0]) if row else 0)

    def _write_balance(self, sender: Address, balance: Balance) -> None:
        values = (sender, str(balance.earned), str(balance.received))
        self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", values)

    def _earn(self, sender: Address, attempt: str, price: int) -> Balance:
        with self._transaction() as db:
            values = (attempt, sender, str(price))
            new = db.execute("INSERT OR IGNORE INTO earnings VALUES (?, ?, ?)", values).rowcount
            if new:
                self._write_balance(sender, self._balance(sender).earn(price))
                db.execute("UPDATE counts SET attempts = attempts + 1")
                self._forget_oldest("earnings")
        return self._balance(sender)

    def _book(self, sender: Address, window: str, requests: int, price: int) -> Balance | None:
        with self._transaction() as db:
            if not db.execute("INSERT OR IGNORE INTO windows VALUES (?, ?)", (sender, window)).rowcount:
                return None
            balance = self._balance(sender).earn(price)
            self._write_balance(sender, balance)
            self._count("requests", "price", sender, requests, price)
            self._forget_oldest("windows")
        return balance

    def _lose(self, sender: Address, requests: int, price: int) -> Balance:
        with self._transaction():
            self._count("lost_requests", "lost", sender, requests, price)
        return self._balance(sender)

    def _count(self, requests_column: str, price_column: str, sender: Address, requests: int, price: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO usage (sender) VALUES (?)", (sender,))
        query = f"SELECT {price_column} FROM usage WHERE sender = ?"  # noqa: S608 - two of the constants above
        (before,) = self._db.execute(query, (sender,)).fetchone()
        query = f"UPDATE usage SET {requests_column} = {requests_column} + ?, {price_column} = ? WHERE sender = ?"  # noqa: S608 - the same
        self._db.execute(query, (requests, str(int(before) + price), sender))

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
            (forgotten,) = db.execute("SELECT forgotten_expiry FROM node").fetchone()
            if checked.params.expiry <= forgotten:  # the clock was set back since
                raise TicketExpired(f"expected an expiry after {forgotten}, up to which nonces are forgotten")
            self._write_params(checked.params, checked.epoch, checked.signers - {sender})
            self._write_tickets(checked.params.hash(), checked.tickets, checked.winners)
            db.execute("UPDATE counts SET tickets = tickets + ?, winners = winners + ?", _counts(accepted))
            balance = self._balance(sender).receive(checked.value)
            self._write_balance(sender, balance)
            self._write_receipt(sender, PaymentReceipt(id=checked.id, accepted=True), digest)
        return balance

    def _write_params(self, params: TicketParams, epoch: int, signers: frozenset[Address]) -> None:
        numbers = (str(params.face_value), str(params.win_prob), params.expiry)
        values = (params.hash(), params.sender, epoch, *numbers, params.commitment)
        self._db.execute("INSERT OR IGNORE INTO params VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        rows = [(params.hash(), signer) for signer in signers]
        self._db.executemany("INSERT OR IGNORE INTO signers VALUES (?, ?)", rows)

    def _write_tickets(self, params_hash: bytes, tickets: Sequence[Ticket], winners: frozenset[int]) -> None:
        rows = [
            (params_hash, ticket.sender_nonce, ticket.signature, "won" if ticket.sender_nonce in winners else "lost")
            for ticket in tickets
        ]
        try:
            self._db.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?, NULL, NULL, NULL)", rows)
        except sqlite3.IntegrityError as error:
            raise TicketReplayed("expected sender nonces that were not seen before; number each ticket anew") from error

    def _refuse(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        with self._transaction():
            self._write_receipt(sender, receipt, digest)

    def _write_receipt(self, sender: Address, receipt: PaymentReceipt, digest: bytes) -> None:
        values = (sender, receipt.id, digest, receipt.model_dump_json())
        self._db.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?)", values)
        self._forget_oldest("receipts")

    def _forget_oldest(self, table: str) -> None:
        """Never many at once, and more than are added."""
        old = f"SELECT rowid FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - ? ORDER BY rowid LIMIT ?"  # noqa: S608
        self._db.execute(f"DELETE FROM {table} WHERE rowid IN ({old})", (_REMEMBERED, _FORGOTTEN))  # noqa: S608 - one of three names above

    def _winners(self, now: float) -> tuple[WinningSet, ...]:
        query = """
            SELECT hash, sender, epoch, face_value, win_prob, expiry, commitment, sender_nonce, signature
            FROM tickets INDEXED BY tickets_won CROSS JOIN params ON params.hash = tickets.params
            WHERE state = 'won' AND tx_nonce IS NULL AND expiry > ? ORDER BY hash, sender_nonce
        """
        sets: dict[bytes, tuple[TicketParams, int, list[Ticket]]] = {}
        for params_hash, sender, epoch, *fields, sender_nonce, signature in self._db.execute(query, (now,)):
            if params_hash not in sets:
                sets[params_hash] = (ticket_params(self._recipient, sender, fields), epoch, [])
            params, _, tickets = sets[params_hash]
            tickets.append(Ticket(params=params, sender_nonce=sender_nonce, signature=signature))
        return tuple(
            WinningSet(params, epoch, tuple(tickets), self._signers(params_hash))
            for params_hash, (params, epoch, tickets) in sets.items()
        )

    def _signers(self, params_hash: bytes) -> frozenset[Address]:
        rows = self._db.execute("SELECT signer FROM signers WHERE params = ?", (params_hash,))
        return frozenset(signer for (signer,) in rows)

    def _outstanding(self, sender: Address, now: float) -> int:
        return self._sum_won("sender = ? AND expiry > ?", sender, now).get(sender, 0)

    def _in_flight(self) -> dict[Address, int]:
        return self._sum_won("tx_nonce IS NOT NULL")

    def _sum_won(self, condition: str, *values: object) -> dict[Address, int]:
        """Face value of unpaid winners by sender; amounts are added here, since SQLite's integers are too small.

        Winners are few, so they come first (CROSS JOIN); left to itself SQLite goes through every ticket.
        """
        query = f"""
            SELECT sender, face_value, count(*)
            FROM tickets INDEXED BY tickets_won CROSS JOIN params ON params.hash = tickets.params
            WHERE state = 'won' AND {condition} GROUP BY hash
        """  # noqa: S608 - one of the constants in this class
        sums: Counter[Address] = Counter()
        for sender, face_value, count in self._db.execute(query, values):
            sums[sender] += int(face_value) * count
        return sums

    def _settle(self, outcome: RedemptionOutcome, now: float) -> None:
        with self._transaction():
            if outcome.result is not None:
                self._write_result(outcome, outcome.result, now)
            self._release(outcome.tx_nonce)

    def _write_result(self, outcome: RedemptionOutcome, result: RedemptionResult, now: float) -> None:
        for paid in result.paid:
            for sender_nonce in paid.sender_nonces:
                self._mark("redeemed", None, paid.params_hash, sender_nonce, result.tx_hash)
        for refused in result.not_paid:
            self._write_refusal(outcome.tx_nonce, refused)
        winners = sum(len(paid.sender_nonces) for paid in result.paid)
        values = (result.tx_hash, str(result.amount_wei), str(result.gas_cost_wei), now, outcome.gas_used, winners)
        mined = (outcome.tx_nonce, outcome.block_number, outcome.block_hash)
        self._db.execute("INSERT OR IGNORE INTO redemptions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, *mined))

    def _write_refusal(self, tx_nonce: int, refused: Refused) -> None:
        if refused.reason is Refusal.ALREADY_REDEEMED:
            state, reason = "redeemed", None
        elif refused.reason not in _PASSING:
            state, reason = "refused", refused.reason.name.lower()
        else:
            return
        if refused.sender_nonce is not None:
            self._mark(state, reason, refused.params_hash, refused.sender_nonce)
            return
        # All of the batch, which is what was sent of it, not what was won since.
        query = "UPDATE tickets SET state = ?, reason = ? WHERE params = ? AND state = 'won' AND tx_nonce = ?"
        self._db.execute(query, (state, reason, refused.params_hash, tx_nonce))

    def _mark(
        self, state: str, reason: str | None, params_hash: bytes, sender_nonce: int, paid_by: bytes | None = None
    ) -> None:
        query = """
            UPDATE tickets SET state = ?, reason = ?, paid_by = ?
            WHERE params = ? AND state = 'won' AND sender_nonce = ?
        """
        self._db.execute(query, (state, reason, paid_by, params_hash, sender_nonce))

    def _paid_since(self, at: float) -> tuple[Paid, ...]:
        query = """
            SELECT tx_hash, block_number, block_hash, sender, face_value, win_prob, expiry, commitment,
                min(sender_nonce)
            FROM redemptions JOIN tickets ON paid_by = tx_hash JOIN params ON hash = params
            WHERE at > ? GROUP BY tx_hash
        """
        return tuple(
            Paid(tx_hash, number, block_hash, ticket_params(self._recipient, sender, fields), sender_nonce)
            for tx_hash, number, block_hash, sender, *fields, sender_nonce in self._db.execute(query, (at,))
        )

    def _take_back(self, paid: Paid) -> None:
        with self._transaction() as db:
            db.execute("UPDATE tickets SET state = 'won', paid_by = NULL WHERE paid_by = ?", (paid.tx_hash,))
            db.execute("DELETE FROM redemptions WHERE tx_hash = ?", (paid.tx_hash,))

    def _prune(self, now: float) -> int:
        with self._transaction() as db:
            return prune(db, now, _AT_ONCE)

    def _totals(self, now: float) -> TicketTotals:
        db = self._db
        balances = [(int(earned), int(got)) for earned, got in db.execute("SELECT earned, received FROM accounts")]
        redemptions = [
            (int(amount), int(gas)) for amount, gas in db.execute("SELECT amount, gas_cost FROM redemptions")
        ]
        usage = db.execute("SELECT requests, price, lost FROM usage").fetchall()
        forgotten = given_up(db)
        _, expired = forgotten.pop(UNREDEEMED, (0, 0))
        refused = Counter(reason for (reason,) in db.execute("SELECT reason FROM tickets WHERE state = 'refused'"))
        refused.update({reason: count for reason, (count, _) in forgotten.items()})
        tickets, winners, attempts = db.execute("SELECT tickets, winners, attempts FROM counts").fetchone()
        return TicketTotals(
            attempts=attempts,
            requests=sum(requests for requests, _, _ in usage),
            earned=sum(earned for earned, _ in balances),
            on_line=sum(int(price) for _, price, _ in usage),
            lost=sum(int(lost) for *_, lost in usage),
            received=sum(received for _, received in balances),
            tickets=tickets,
            winners=winners,
            outstanding=sum(self._sum_won("expiry > ?", now).values()),
            in_flight=sum(self._in_flight().values()),
            expired=expired + sum(self._sum_won("tx_nonce IS NULL AND expiry <= ?", now).values()),
            redeemed=sum(amount for amount, _ in redemptions),
            gas_spent=sum(gas for _, gas in redemptions),
            refused=refused,
        )

    def _gas_price(self) -> GasPrice | None:
        row = self._db.execute("SELECT gas_price_now, gas_price_usual, gas_price_at FROM node").fetchone()
        return GasPrice(int(row[0]), int(row[1]), row[2]) if row[0] is not None else None

    def _keep_gas_price(self, price: GasPrice) -> None:
        values = (str(price.current), str(price.usual), price.at)
        with self._transaction() as db:
            db.execute("UPDATE node SET gas_price_now = ?, gas_price_usual = ?, gas_price_at = ?", values)

    def _gas_per_winner(self) -> int | None:
        query = "SELECT gas_used, winners FROM redemptions WHERE winners > 0 ORDER BY at DESC LIMIT ?"
        rows = self._db.execute(query, (_MEASURED,)).fetchall()
        return sum(gas for gas, _ in rows) // sum(winners for _, winners in rows) if rows else None

    def _note(self, topic: str, text: str, at: float) -> None:
        with self._transaction() as db:
            query = (
                "INSERT INTO notes VALUES (?, ?, ?) ON CONFLICT (topic) DO UPDATE "
                "SET text = excluded.text, at = excluded.at WHERE text <> excluded.text"
            )
            db.execute(query, (topic, text, at))

    def _notes(self) -> tuple[Note, ...]:
        return tuple(Note(*row) for row in self._db.execute("SELECT topic, text, at FROM notes ORDER BY topic"))

    def _record(self, transaction: SignedTransaction, redeemed: Sequence[tuple[bytes, int]]) -> None:
        values = (
            transaction.tx_hash,
            transaction.tx_nonce,
            transaction.raw,
            transaction.purpose,
            transaction.signed_at,
        )
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO transactions VALUES (?, ?, ?, ?, ?)", values)
            links = [(transaction.tx_nonce, *ticket) for ticket in redeemed]
            query = "UPDATE tickets SET tx_nonce = ? WHERE params = ? AND sender_nonce = ? AND state = 'won'"
            db.executemany(query, links)

    def _pending(self) -> tuple[SignedTransaction, ...]:
        rows = self._db.execute("SELECT tx_hash, tx_nonce, raw, purpose, signed_at FROM transactions ORDER BY tx_nonce")
        return tuple(SignedTransaction(*row) for row in rows)

    def _forget(self, tx_nonce: int) -> None:
        with self._transaction():
            self._release(tx_nonce)

    def _release(self, tx_nonce: int) -> None:
        """What the transaction did not pay may be redeemed by another."""
        self._db.execute("DELETE FROM transactions WHERE tx_nonce = ?", (tx_nonce,))
        self._db.execute("UPDATE tickets SET tx_nonce = NULL WHERE tx_nonce = ?", (tx_nonce,))


def _counts(accepted: AcceptedPayment) -> tuple[int, int]:
    return len(accepted.checked.tickets), len(accepted.checked.winners)
