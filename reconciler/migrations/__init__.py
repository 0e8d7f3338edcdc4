"""The store's schema as Alembic revisions; `reconciler.store` runs them on opening."""
