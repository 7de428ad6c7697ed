"""Alembic's entry: the connection comes from `store.migrate`, or from a URL for its own commands."""

from alembic import context
from sqlalchemy import create_engine

from src.serving.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    connection = create_engine(context.config.get_main_option("sqlalchemy.url")).connect()
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
