"""Run by Alembic: migrates over the connection that the caller is in a transaction on."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
