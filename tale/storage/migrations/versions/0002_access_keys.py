"""Keys that clients send, by their digests; and whose key asked for each call."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add the table of keys, and the name of the key to both kinds of call."""
    op.create_table(
        "access_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("revoked_at", Seconds()),
        sa.PrimaryKeyConstraint("id", name="pk_access_keys"),
        sa.UniqueConstraint("digest", name="uq_access_keys_digest"),
    )
    op.add_column("mcp_calls", sa.Column("key_name", sa.Text()))
    op.add_column("model_calls", sa.Column("key_name", sa.Text()))
