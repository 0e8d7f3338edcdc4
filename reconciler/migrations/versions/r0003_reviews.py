"""What was planned of a pull request, and which deliveries of a forge were seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("pull", sa.Integer, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("tree", sa.Text, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("made_at", sa.String(27), nullable=False),
        sa.Column("posted_at", sa.String(27)),
        sa.Column("expires_at", sa.String(27), nullable=False),
        sa.Column("settled_at", sa.String(27)),
    )
    op.create_index("reviews_pull", "reviews", ["pull", "made_at"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.String(27), nullable=False),
    )
