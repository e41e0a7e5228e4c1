"""Run by Alembic: migrates over the connection that the caller is in a transaction on."""

from alembic import context

from orchestrator.adapters.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
