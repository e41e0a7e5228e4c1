"""What the ticket store forgets a day after terms have expired: tickets, with sums of those that were never paid."""

import sqlite3

_AFTER = 86_400.0
"""Seconds after expiry."""
UNREDEEMED = "unredeemed"
"""Winners that nobody redeemed, beside the contract's reasons for those that it refused."""

_OLD = "params IN (SELECT hash FROM params WHERE expiry <= ?)"
_GIVEN_UP = (
    ("tickets_won", "state = 'won' AND tx_nonce IS NULL"),
    ("tickets_refused", "state = 'refused'"),
)
"""Winners that will not be paid any more: by which index they are found, and what they are. What is in flight stays."""


def prune(db: sqlite3.Connection, now: float, at_once: int) -> int:
    """One step, within a transaction: how many losers and redeemed winners were forgotten, at most `at_once`."""
    past = now - _AFTER
    # A ticket under terms that have expired is refused for that; its nonce need not be remembered. Should the clock be
    # set back, up to which expiry is.
    newest = "SELECT coalesce(max(expiry), 0) FROM params WHERE expiry <= ?"
    query = f"UPDATE node SET forgotten_expiry = ({newest}) WHERE forgotten_expiry < ({newest})"  # noqa: S608 - the constant above
    db.execute(query, (past, past))
    for index, condition in _GIVEN_UP:
        _give_up(db, index, condition, past)
    old = f"SELECT params, sender_nonce FROM tickets WHERE state IN ('lost', 'redeemed') AND {_OLD} LIMIT ?"  # noqa: S608 - as above
    forgotten = db.execute(f"DELETE FROM tickets WHERE (params, sender_nonce) IN ({old})", (past, at_once)).rowcount  # noqa: S608
    query = "DELETE FROM params WHERE expiry <= ? AND NOT EXISTS (SELECT 1 FROM tickets WHERE params = hash)"
    db.execute(query, (past,))
    return forgotten


def given_up(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Winners that were forgotten unpaid, and their face value in wei, by reason."""
    rows = db.execute("SELECT reason, tickets, face_value FROM given_up")
    return {reason: (tickets, int(face_value)) for reason, tickets, face_value in rows}


def _give_up(db: sqlite3.Connection, index: str, condition: str, past: float) -> None:
    query = f"""
        SELECT coalesce(reason, '{UNREDEEMED}'), face_value, count(*)
        FROM tickets INDEXED BY {index} CROSS JOIN params ON params.hash = tickets.params
        WHERE {condition} AND expiry <= ? GROUP BY 1, 2
    """  # noqa: S608 - constants
    sums = given_up(db)
    for reason, face_value, count in db.execute(query, (past,)).fetchall():
        tickets, worth = sums.get(reason, (0, 0))
        sums[reason] = tickets + count, worth + count * int(face_value)
    rows = [(reason, tickets, str(worth)) for reason, (tickets, worth) in sums.items()]
    db.executemany("INSERT OR REPLACE INTO given_up VALUES (?, ?, ?)", rows)
    db.execute(f"DELETE FROM tickets INDEXED BY {index} WHERE {condition} AND {_OLD}", (past,))  # noqa: S608 - the same
