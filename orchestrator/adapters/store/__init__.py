"""The store in SQL: one set of portable queries, today over SQLite."""

from orchestrator.adapters.store.sql import SqlStore, look_into_books, open_store

__all__ = ["SqlStore", "look_into_books", "open_store"]
