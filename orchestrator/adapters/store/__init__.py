"""The store in SQL: one set of portable queries, today over SQLite."""

from orchestrator.adapters.store.sql import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
