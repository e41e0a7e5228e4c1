"""Changes of a table's definition that SQLite has no statement for."""

import sqlalchemy as sa
from alembic import op


def loosen(table: str, old: str, new: str, *, elsewhere: str) -> None:
    """Rewrites a part of a table's definition that every row obeys before and after.

    SQLite has no statement for it, and making the table anew would break every reference to it within the
    transaction; so it is done as the manual of ALTER TABLE says, in the schema's text. `elsewhere` are the actions of
    the ALTER TABLE that does the same on a database that can.
    """
    if op.get_context().dialect.name != "sqlite":
        op.execute(f"ALTER TABLE {table} {elsewhere}")
        return
    connection = op.get_bind()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :old, :new) "
            "WHERE type = 'table' AND name = :table AND instr(sql, :old)"
        ),
        {"table": table, "old": old, "new": new},
    )
    if changed.rowcount != 1:
        raise RuntimeError(f"expected {old!r} in the definition of {table}, got another definition")
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")


def loosen_states(table: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """What the column `state` can be."""
    old, new, check = _among(before), _among(after), f"ck_{table}_state"
    loosen(table, old, new, elsewhere=f"DROP CONSTRAINT {check}, ADD CONSTRAINT {check} CHECK ({new})")


def _among(states: tuple[str, ...]) -> str:
    return f"state IN ({', '.join(repr(state) for state in states)})"
