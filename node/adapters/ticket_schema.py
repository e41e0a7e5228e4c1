"""The ticket store's file: its tables, and how a file of an earlier version becomes one of this.

A new file is made as version 1 and brought up like an old one, so that both are the same.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem.protocol.errors import ConfigurationError
from tandem.protocol.signing import Address
from tandem.protocol.tickets import Domain, Ticket, TicketParams, recover_signer

VERSION = 5
_BUSY_MS = 10_000
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
# A winner with a tx_nonce is in flight, in the transaction of that number; its versions are in the journal. Receipts
# and earnings have row numbers in the order in which they came: the oldest are forgotten.
_VERSION_2 = """
ALTER TABLE tickets ADD COLUMN tx_nonce INTEGER;
ALTER TABLE transactions ADD COLUMN signed_at REAL NOT NULL DEFAULT 0;
ALTER TABLE redemptions ADD COLUMN gas_used INTEGER;
ALTER TABLE redemptions ADD COLUMN winners INTEGER;
ALTER TABLE redemptions ADD COLUMN tx_nonce INTEGER;
ALTER TABLE redemptions ADD COLUMN block_number INTEGER;
ALTER TABLE redemptions ADD COLUMN block_hash BLOB;
ALTER TABLE node ADD COLUMN gas_price_now TEXT;
ALTER TABLE node ADD COLUMN gas_price_usual TEXT;
ALTER TABLE node ADD COLUMN gas_price_at REAL;
ALTER TABLE node ADD COLUMN forgotten_expiry INTEGER NOT NULL DEFAULT 0;
CREATE TABLE signers (
    params BLOB NOT NULL REFERENCES params ON DELETE CASCADE, signer TEXT NOT NULL, PRIMARY KEY (params, signer)
) STRICT, WITHOUT ROWID;
CREATE TABLE numbered (
    sender TEXT NOT NULL, payment INTEGER NOT NULL, digest BLOB NOT NULL, receipt TEXT NOT NULL,
    PRIMARY KEY (sender, payment)
) STRICT;
INSERT INTO numbered SELECT * FROM receipts ORDER BY payment;
DROP TABLE receipts;
ALTER TABLE numbered RENAME TO receipts;
ALTER TABLE counts ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
UPDATE counts SET attempts = (SELECT count(*) FROM earnings);
CREATE TABLE notes (topic TEXT PRIMARY KEY, text TEXT NOT NULL, at REAL NOT NULL) STRICT, WITHOUT ROWID;
DROP INDEX tickets_won;
CREATE INDEX tickets_won ON tickets (params) WHERE state = 'won';
CREATE INDEX tickets_sent ON tickets (tx_nonce) WHERE tx_nonce IS NOT NULL;
CREATE INDEX tickets_refused ON tickets (reason) WHERE state = 'refused';
"""
# By the hash of the transaction that paid it: after a reorganisation another one may have had the same tx_nonce.
_VERSION_3 = """
ALTER TABLE tickets ADD COLUMN paid_by BLOB;
UPDATE tickets SET tx_nonce = NULL, paid_by = (
    SELECT tx_hash FROM redemptions WHERE redemptions.tx_nonce = tickets.tx_nonce GROUP BY tx_nonce HAVING count(*) = 1
) WHERE state = 'redeemed' AND tx_nonce IS NOT NULL;
CREATE INDEX tickets_paid ON tickets (paid_by) WHERE paid_by IS NOT NULL;
"""
# Windows have row numbers in the order in which they came: the oldest are forgotten, and `usage` keeps their sums.
_VERSION_4 = """
CREATE TABLE windows (sender TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (sender, id)) STRICT;
CREATE TABLE usage (
    sender TEXT PRIMARY KEY, requests INTEGER NOT NULL DEFAULT 0, price TEXT NOT NULL DEFAULT '0',
    lost_requests INTEGER NOT NULL DEFAULT 0, lost TEXT NOT NULL DEFAULT '0'
) STRICT;
"""
# Sums of winners that were not paid and are forgotten, by the contract's reason; `unredeemed` has none.
_VERSION_5 = """
CREATE TABLE given_up (
    reason TEXT PRIMARY KEY, tickets INTEGER NOT NULL, face_value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_TRACES = ("accounts", "params", "receipts", "transactions", "redemptions")
"""Tables in which everything is about one key, chain and contract."""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def open_file(path: Path, recipient: Address, domain: Domain) -> tuple[sqlite3.Connection, bytes]:
    """The file, made if there is none and brought up to this version, and the secret in it.

    Raises ConfigurationError if it belongs to another key, chain or contract, or to a later release.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the secret
    db = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", f"busy_timeout = {_BUSY_MS}"):
            db.execute(f"PRAGMA {pragma}").close()
        with transaction(db):
            return db, _bring_up(db, path, recipient, domain)
    except BaseException:
        db.close()
        raise


def ticket_params(recipient: Address, sender: Address, fields: Sequence[Any]) -> TicketParams:
    """From the columns face_value, win_prob, expiry and commitment."""
    face_value, win_prob, expiry, commitment = fields
    return TicketParams(
        sender=sender,
        recipient=recipient,
        face_value=int(face_value),
        win_prob=int(win_prob),
        expiry=expiry,
        commitment=commitment,
    )


def _bring_up(db: sqlite3.Connection, path: Path, recipient: Address, domain: Domain) -> bytes:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ConfigurationError(
            f"expected a ticket store of version {VERSION} or earlier at {path}, found {version}; use the release that "
            "wrote it"
        )
    identity = (recipient, str(domain.chain_id), domain.contract)
    if version < 1:
        _create(db, identity)
    secret = _secret(db, path, identity)
    if version < 2:  # noqa: PLR2004 - as it says
        _to_version_2(db, recipient, domain)
    if version < 3:  # noqa: PLR2004
        _run(db, _VERSION_3)
    if version < 4:  # noqa: PLR2004
        _run(db, _VERSION_4)
    if version < VERSION:
        _run(db, _VERSION_5)
        db.execute(f"PRAGMA user_version = {VERSION}")
    return secret


def _run(db: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):  # executescript would end the transaction
        db.execute(statement)


def _create(db: sqlite3.Connection, identity: tuple[str, str, str]) -> None:
    _run(db, _VERSION_1)
    db.execute("INSERT INTO node VALUES (1, ?, ?, ?, ?, 1, 0)", (*identity, secrets.token_bytes(32)))
    db.execute("INSERT INTO counts VALUES (1, 0, 0)")


def _to_version_2(db: sqlite3.Connection, recipient: Address, domain: Domain) -> None:
    _run(db, _VERSION_2)
    # Version 1 sent winners of closed epochs alone, one transaction at a time: they wait for what came of it.
    db.execute(
        "UPDATE tickets SET tx_nonce = (SELECT max(tx_nonce) FROM transactions) WHERE state = 'won' AND params IN "
        "(SELECT hash FROM params WHERE epoch <= (SELECT closed_epoch FROM node))"
    )
    query = """
        SELECT hash, sender_nonce, signature, sender, face_value, win_prob, expiry, commitment
        FROM tickets JOIN params ON params.hash = tickets.params WHERE state = 'won'
    """
    for params_hash, sender_nonce, signature, sender, *fields in db.execute(query).fetchall():
        params = ticket_params(recipient, sender, fields)
        signer = recover_signer(domain, Ticket(params=params, sender_nonce=sender_nonce, signature=signature))
        db.execute("INSERT OR IGNORE INTO signers VALUES (?, ?)", (params_hash, signer))


def _secret(db: sqlite3.Connection, path: Path, expected: tuple[str, str, str]) -> bytes:
    *found, secret = db.execute("SELECT recipient, chain_id, contract, secret FROM node").fetchone()
    if tuple(found) != expected:
        if any(db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in _TRACES):  # noqa: S608 - constants
            raise ConfigurationError(
                f"expected the ticket store {path} to belong to {expected} (key, chain, contract), it belongs to "
                f"{tuple(found)} and holds what was earned there: correct chain.chain_id, chain.contract or the key, "
                "or give each a data folder of its own"
            )
        # Nothing was ever earned under what it was first opened for, which was a mistake then.
        db.execute("UPDATE node SET recipient = ?, chain_id = ?, contract = ?", expected)
    return bytes(secret)
