"""Alembic's entry: runs the revisions on the connection that the store opened.

Only `reconciler.store.database` calls it. It never opens a connection of its own.
"""

from __future__ import annotations

from alembic import context

from reconciler.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional too once BEGIN is said aloud, as the store does:
    # a migration is applied whole or not at all.
    transactional_ddl=True,
    render_as_batch=True,
)
# The store holds the transaction, so that two processes cannot migrate at once.
context.run_migrations()
