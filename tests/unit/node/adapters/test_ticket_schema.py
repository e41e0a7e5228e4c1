"""A ticket store that the first release wrote is brought up to date without losing anything."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from node.adapters.ticket_schema import VERSION
from node.adapters.ticket_store import SqliteTicketStore
from node.core.acceptance import check, fund
from node.core.exposure import Balance
from node.core.terms import Epochs
from node.ports.contract import RedemptionOutcome
from tandem.protocol.errors import ConfigurationError, TicketReplayed
from tandem.protocol.messages import PaymentReceipt
from tandem.protocol.tickets import Domain, Ticket
from tests.fixtures.node import (
    ALWAYS,
    DOMAIN,
    NODE,
    NOW,
    SECRET,
    SENDER,
    SIGNER,
    backing,
    paid,
    payment,
    ref,
    terms,
    till,
)

DIGEST = b"d" * 32
RECEIPT = PaymentReceipt(id=1, accepted=True)
_VERSION_1 = """
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
    tx_hash BLOB PRIMARY KEY, tx_nonce INTEGER NOT NULL, raw BLOB NOT NULL, purpose TEXT NOT NULL
) STRICT;
CREATE TABLE redemptions (
    tx_hash BLOB PRIMARY KEY, amount TEXT NOT NULL, gas_cost TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE counts (id INTEGER PRIMARY KEY CHECK (id = 1), tickets INTEGER NOT NULL, winners INTEGER NOT NULL) STRICT;
"""
"""As it was released; it stays as it is."""
CLOSED, OPEN = terms(ALWAYS, epoch=1), terms(ALWAYS, epoch=2)


def _write(db: sqlite3.Connection) -> None:
    db.executescript(_VERSION_1)
    db.execute("PRAGMA journal_mode = WAL").close()
    owner = (NODE.address, str(DOMAIN.chain_id), DOMAIN.contract)
    db.execute("INSERT INTO node VALUES (1, ?, ?, ?, ?, 2, 1)", (*owner, SECRET))
    db.execute("INSERT INTO accounts VALUES (?, ?, ?)", (SENDER.address, str(10**20), "4995"))
    db.execute("INSERT INTO earnings VALUES (?, ?, ?)", (str(ref()), SENDER.address, str(10**20)))
    for params, epoch, states in ((CLOSED, 1, ("redeemed", "won", "refused")), (OPEN, 2, ("won", "lost"))):
        numbers = (str(params.face_value), str(params.win_prob), params.expiry)
        values = (params.hash(), params.sender, epoch, *numbers, params.commitment)
        db.execute("INSERT INTO params VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        tickets = payment(params, range(len(states))).tickets
        rows = [
            (params.hash(), each.sender_nonce, each.signature, state)
            for each, state in zip(tickets, states, strict=True)
        ]
        db.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?, NULL)", rows)
    db.execute("UPDATE tickets SET reason = 'expired' WHERE state = 'refused'")
    db.execute("INSERT INTO receipts VALUES (?, 1, ?, ?)", (SENDER.address, DIGEST, RECEIPT.model_dump_json()))
    db.execute("INSERT INTO redemptions VALUES (?, '1000', '7', ?)", (b"\x09" * 32, NOW))
    db.execute("INSERT INTO counts VALUES (1, 5, 4)")
    db.execute("PRAGMA user_version = 1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.db"
    with closing(sqlite3.connect(path)) as db, db:
        _write(db)
    return path


def in_flight(path: Path, tx_nonce: int) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO transactions VALUES (?, ?, ?, 'redeem tickets')", (b"\x01" * 32, tx_nonce, b"raw"))


def store_at(path: Path) -> SqliteTicketStore:
    return SqliteTicketStore(path, NODE.address, DOMAIN)


def nonces(tickets: Sequence[Ticket]) -> list[int]:
    return [ticket.sender_nonce for ticket in tickets]


async def test_everything_is_still_there(path: Path) -> None:
    for _ in range(2):
        async with store_at(path) as store:
            assert store.secret == SECRET
            assert await store.epochs() == Epochs(2, 1)
            assert await store.balance(SENDER.address) == Balance(10**20, 4995)
            assert await store.receipt(SENDER.address, 1, DIGEST) == RECEIPT
            assert sorted((won.epoch, nonces(won.tickets)) for won in await store.winners(NOW)) == [(1, [1]), (2, [0])]
            totals = await store.totals(NOW)
            assert (totals.redeemed, totals.gas_spent, totals.refused) == (1000, 7, {"expired": 1})
            assert (totals.attempts, totals.tickets, totals.winners, totals.outstanding) == (1, 5, 4, 2000)
            assert await store.gas_per_winner() is None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


async def test_who_signed_is_found_out(path: Path) -> None:
    async with store_at(path) as store:
        assert [won.signers for won in await store.winners(NOW)] == [{SIGNER.address}] * 2


async def test_what_was_in_flight_still_is(path: Path) -> None:
    in_flight(path, 7)
    async with store_at(path) as store:
        (sent,) = await store.pending()
        assert (sent.tx_nonce, sent.raw, sent.signed_at) == (7, b"raw", 0.0)
        (waiting,) = await store.winners(NOW)
        assert (waiting.epoch, nonces(waiting.tickets)) == (2, [0])
        assert await store.in_flight() == {SENDER.address: 1000}
        await store.settle(RedemptionOutcome(7, paid([])), NOW)
        assert len(await store.winners(NOW)) == 2


async def test_old_nonces_stay_seen(path: Path) -> None:
    async with store_at(path) as store:
        assert await store.seen(OPEN.hash(), range(5)) == {0, 1}
        with pytest.raises(TicketReplayed):
            await store.take(fund(check(payment(OPEN, [1]), till(Epochs(2, 1)), frozenset()), backing(), 0), DIGEST)


async def test_another_chain_is_told_before_anything_is_changed(path: Path) -> None:
    with pytest.raises(ConfigurationError):
        async with SqliteTicketStore(path, NODE.address, Domain(chain_id=1, contract=DOMAIN.contract)):
            pass
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
