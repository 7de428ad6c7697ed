"""Alembic's entry; the connection comes from `Store`."""

from alembic import context

from src.serving.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
