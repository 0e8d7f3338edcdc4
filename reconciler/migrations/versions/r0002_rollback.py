"""What lived before, what stands in for a frozen revision, decisions for the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "former",
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("unit", sa.LargeBinary, nullable=False),
        sa.Column("depends", sa.JSON, nullable=False),
    )
    for name in ("target", "kind", "project", "name", "stand_in"):
        op.add_column("frozen", sa.Column(name, sa.Text))
    op.add_column("frozen", sa.Column("unit", sa.LargeBinary))
    op.add_column("frozen", sa.Column("depends", sa.JSON))
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
    )
